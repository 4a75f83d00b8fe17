"""A dialect is its folder and one line: here an entry point, and for the server's own a line in server/dialects.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
import requests

from tests.conftest import Serve, pack_handler
from tests.packages import install

ENTRY_POINTS = """
[pdserver.dialects]
shout = shout:dialect
wrong = shout:_failed
"""


@pytest.fixture
def shouting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with the dialect."""
    code = (Path(__file__).parent / "shout.py").read_text()
    monkeypatch.setenv("PYTHONPATH", str(install(tmp_path / "installed", "shout", code, ENTRY_POINTS)))


def test_a_dialect_of_ones_own_is_spoken_over_http_and_grpc(store: Path, serve: Serve, shouting: None) -> None:
    pack_handler(store, "mirror")
    server = serve()
    assert requests.post(f"{server.inference}/shout/mirror", b"abc", timeout=60).text == "CBA"
    assert requests.post(f"{server.inference}/mirror/shout", b"abc", timeout=60).text == "CBA", "the other door"
    assert requests.post(f"{server.inference}/mirror/predict", b"abc", timeout=60).text == "cba", "another's"
    missing = requests.post(f"{server.inference}/shout/nobody", b"abc", timeout=60)
    assert (missing.status_code, missing.text[:6]) == (418, "ALAS: ")
    assert requests.get(f"{server.inference}/shout/loudness", timeout=60).text == "VERY"
    assert requests.get(f"{server.inference}/shout/what", timeout=60).text == "NO SUCH SHOUT", "in its own words"
    assert requests.post(f"{server.inference}/predictions/mirror", b"abc", timeout=60).text == "cba"
    with grpc.insecure_channel(server.grpc_inference) as channel:
        say: Any = channel.unary_unary("/Shout/Say")
        assert say(b"abc", timeout=60) == b"CBA"
    server.logged("plugin wrong (shout:_failed) is left out")
