"""Installed packages that add endpoints or take the metrics, and ones that fail at it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import requests

from tests.conftest import Serve, pack_handler
from tests.packages import install
from tests.running import eventually
from tests.without_paddle import without_paddle as without_paddle

CODE = """
from pathlib import Path
from starlette.responses import PlainTextResponse
from starlette.routing import Route

def endpoints(engine):
    async def hello(request):
        return PlainTextResponse(", ".join(model.name for model in engine.catalogue))
    async def broken(request):
        raise ValueError("a plugin's fault")
    return {"inference": [Route("/hello", hello), Route("/broken", broken)]}

def failing(engine):
    raise RuntimeError("this plugin can't start")

class Sink:
    def write(self, families):
        Path(r"OUT").write_text("\\n".join(family.name for family in families))
    def close(self):
        Path(r"OUT").with_suffix(".closed").touch()
"""
ENTRY_POINTS = """
[pdserver.endpoints]
hello = pd_test_plugin:endpoints
failing = pd_test_plugin:failing
[pdserver.metric_sinks]
file = pd_test_plugin:Sink
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package. Gives the file that its sink writes."""
    out = tmp_path / "metrics.txt"
    code = CODE.replace("OUT", str(out))
    package = install(tmp_path / "installed", "pd_test_plugin", code, ENTRY_POINTS)
    monkeypatch.setenv("PYTHONPATH", str(package), prepend=os.pathsep)
    return out


@pytest.mark.usefixtures("without_paddle")
def test_plugins_add_to_the_server_and_cannot_break_it(store: Path, serve: Serve, plugin: Path) -> None:
    pack_handler(store, "chaos")
    server = serve(metric_time_interval="1")
    assert requests.get(f"{server.inference}/hello", timeout=60).text == "chaos"
    page = requests.get(f"{server.inference}/hello", headers={"Origin": "http://evil.com"}, timeout=60)
    assert page.status_code == 403, "a route that does not say what it needs is closed to pages"
    broken = requests.get(f"{server.inference}/broken", timeout=60)
    assert (broken.status_code, "plugin's fault" in broken.text) == (500, False)
    assert server.predict("chaos", json={"nonce": 1}).json()["nonce"] == 1
    server.logged("this plugin can't start")
    eventually(lambda: plugin.exists() and "pd_requests" in plugin.read_text())
    assert server.stop() == 0
    assert plugin.with_suffix(".closed").exists()
