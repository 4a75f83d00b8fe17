"""Services with real models, in this process: nothing here may fork after."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml

from pdarchiver.archive import read_manifest
from pdarchiver.pack import PackOptions, pack
from pdserver.configuration.model import ModelSpec
from pdserver.handlers.runtime.service import Service
from tests.conftest import MadeOnce, run_script

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="No ccache", category=UserWarning)
    import paddle as paddle

_numbers = count()
"""Handlers' files and models' folders are imported into this one process: each has its own name."""


@pytest.fixture(scope="session")
def models(made_once: MadeOnce) -> Path:
    """A folder with the models of models.py: `pir` (.json) and `legacy` (.pdmodel)."""

    def fill(root: Path) -> None:
        for folder, flag in (("pir", "1"), ("legacy", "0")):
            (root / folder).mkdir()
            run_script(Path(__file__).with_name("models.py"), root / folder, FLAGS_enable_pir_api=flag)

    return made_once("handlers", fill)


Load = Callable[..., Service]


@pytest.fixture
def load(tmp_path: Path, models: Path) -> Load:
    """A loaded Service: `model` as "pir/linear.json" or None, `source` as the text of a handler's file, `config` as
    the model's YAML, `files` as what lies beside them, `model_file` as Python code
    whose weights `model` then is, and fields of the ModelSpec. Everything goes through the real archiver."""

    def load(
        model: str | None = "pir/linear.json",
        handler: str = "base_handler",
        source: str | None = None,
        entry: str = "",
        config: dict[str, Any] | None = None,
        files: dict[str, bytes] | None = None,
        device_id: int | None = None,
        model_file: Path | None = None,
        **settings: Any,
    ) -> Service:
        number = next(_numbers)
        folder = tmp_path / f"files{number}"
        folder.mkdir()
        if source is not None:
            (folder / f"handler{number}.py").write_text(source)
            handler = str(folder / f"handler{number}.py") + entry
        config_file = folder / "config.yaml"
        config_file.write_text(yaml.safe_dump(config or {}))
        for name, content in (files or {}).items():
            (folder / name).write_bytes(content)
        directory = pack(
            PackOptions(
                model_name=f"model{number}",
                version="1.0",
                handler=handler,
                serialized_file=models / model if model else None,
                model_file=model_file,
                extra_files=tuple(str(folder / name) for name in files or {}),
                config_file=config_file,
                export_path=tmp_path,
                archive_format="no-archive",
            )
        )
        service = Service(spec(directory, config or {}, **settings), device_id)
        service.load()
        return service

    return load


def spec(directory: Path, config: dict[str, Any], **changes: Any) -> ModelSpec:
    manifest = read_manifest(directory)
    fields = {"handler": manifest.handler, "manifest": dict(manifest.raw), "batch_size": 8, **changes}
    return ModelSpec(
        name=directory.name, version="1.0", url=directory.name, directory=str(directory), model_config=config,
        min_workers=1, max_workers=1, **fields,
    )  # fmt: skip
