"""Real Paddle models, saved once for all tests of this folder, by other processes: paddle is never imported here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import MadeOnce, run_script

_SCRIPT = Path(__file__).with_name("make_models.py")


@pytest.fixture(scope="session")
def models(made_once: MadeOnce) -> Path:
    """A folder with `pir/` and `desc/`, the same models in both formats, each with a `facts.json`."""

    def fill(root: Path) -> None:
        for folder, flag in (("pir", "1"), ("desc", "0")):
            (root / folder).mkdir()
            run_script(_SCRIPT, root / folder, FLAGS_enable_pir_api=flag)

    return made_once("pdarchiver", fill)


@pytest.fixture(scope="session")
def linear(models: Path) -> Path:
    """A PIR model with one input, x float32[-1, 13], and one output; its weights lie beside it."""
    return models / "pir" / "linear.json"
