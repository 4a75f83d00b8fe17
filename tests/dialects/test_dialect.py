"""A dialect is its folder and one line: here an entry point, and for the server's own a line in server/dialects.py."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests

from tests.conftest import Serve, pack_handler

ENTRY_POINTS = """
[pdserver.dialects]
shout = shout:dialect
wrong = shout:_failed
"""


@pytest.fixture
def shouting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with the dialect, and the metadata that pip would write."""
    folder = tmp_path / "installed"
    metadata = folder / "shout-1.0.dist-info"
    metadata.mkdir(parents=True)
    shutil.copy(Path(__file__).parent / "shout.py", folder)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: shout\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_a_dialect_of_ones_own_is_spoken_over_http_and_grpc(store: Path, serve: Serve, shouting: None) -> None:
    pack_handler(store, "mirror")
    server = serve()
    assert requests.post(f"{server.inference}/shout/mirror", b"abc", timeout=10).text == "CBA"
    missing = requests.post(f"{server.inference}/shout/nobody", b"abc", timeout=10)
    assert (missing.status_code, missing.text[:6]) == (418, "ALAS: ")
    assert requests.get(f"{server.inference}/shout/loudness", timeout=10).text == "VERY"
    assert requests.get(f"{server.inference}/shout/what", timeout=10).text == "NO SUCH SHOUT", "in its own words"
    assert requests.post(f"{server.inference}/predictions/mirror", b"abc", timeout=10).text == "cba"
    with grpc.insecure_channel(server.grpc_inference) as channel:
        say: Any = channel.unary_unary("/Shout/Say")
        assert say(b"abc", timeout=10) == b"CBA"
    server.logged("plugin wrong (shout:_failed) is left out")
