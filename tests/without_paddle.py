"""Servers that run where Paddle is not installed: handlers that do without it serve there as well.

`import paddle` is more than half of what a start costs, so a test whose handlers do without Paddle starts its servers
this way. A test file imports the fixture (`from tests.without_paddle import without_paddle as without_paddle`) and says
`pytestmark = pytest.mark.usefixtures("without_paddle")`. The servers that tests share are not touched: pytest starts
those before the fixture of a single test.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.running import RunningServer

_STAND_IN = "raise ModuleNotFoundError(\"No module named 'paddle'\", name='paddle')\n"


@contextmanager
def no_paddle(site: Path) -> Iterator[None]:
    """What is started meanwhile finds no Paddle, as after `pip install pdserver` without an extra; `site` is empty."""
    (site / "paddle").mkdir()
    (site / "paddle" / "__init__.py").write_text(_STAND_IN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
        yield


@contextmanager
def running_without_paddle(folder: Path, store: Path, **settings: str) -> Iterator[RunningServer]:
    """A server for the tests of a file: of all that the store has."""
    (folder / "site").mkdir()
    server = RunningServer(folder / "server", store, settings=settings)
    with no_paddle(folder / "site"):
        server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def without_paddle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with no_paddle(tmp_path_factory.mktemp("site")):
        yield
