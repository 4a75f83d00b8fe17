"""Schemathesis against the server's own OpenAPI documents: what they promise is so, and nothing makes it fail."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import pack_handler
from tests.running import BIN, RunningServer, clean_environment

_CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One of its own: its models may be unregistered by whoever guesses their names."""
    folder = tmp_path_factory.mktemp("schemas")
    (folder / "store").mkdir()
    pack_handler(folder / "store", "parts")
    pack_handler(folder / "store", "parts", "others")
    with RunningServer(folder / "server", folder / "store") as server:
        yield server


@pytest.mark.parametrize("port", ["inference", "management"])
def test_the_documents(server: RunningServer, port: str, tmp_path: Path) -> None:
    url = getattr(server, port) + "/api-description"
    options = ["--max-examples", "5", "--phases", "examples,coverage,fuzzing", "--seed", "1", "--checks", _CHECKS]
    done = subprocess.run(
        [str(BIN / "schemathesis"), "run", url, "--no-color", *options],
        cwd=tmp_path,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in server.log()
    assert server.ping().status_code == 200
