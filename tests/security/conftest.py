"""One server for all who ask it badly."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import fit_file, pack_handler
from tests.running import RunningServer
from tests.security.file_server import FileServer
from tests.security.victim import Belongings, Victim

DIGITS = Path(__file__).parent.parent.parent / "model_store" / "digits.pdar"
_LIMITS = {
    "max_archive_size": "2000000",
    "max_unpacked_size": "3000000",
    "max_archive_entries": "50",
    "max_archive_ratio": "100",
    "max_request_size": "8000000",
    "download_timeout": "3",
}


@pytest.fixture(scope="session")
def elsewhere() -> Iterator[FileServer]:
    """An HTTP server on loopback that serves archives, and does worse."""
    with FileServer() as server:
        yield server


@pytest.fixture(scope="session")
def store_of_all(tmp_path_factory: pytest.TempPathFactory, fit_model: Path) -> Path:
    store = tmp_path_factory.mktemp("bad") / "store"
    store.mkdir()
    shutil.copy(DIGITS, store)
    for name, config in {"fit": "", "wrapped": "serviceEnvelope: json", "kserve2": "serviceEnvelope: kservev2"}.items():
        pack_handler(store, "base_handler", name, config=config, serialized_file=fit_file(fit_model))
    for name in ("parts", "chaos"):
        pack_handler(store, name)
    return store


@pytest.fixture(scope="session")
def server_of_all(store_of_all: Path, elsewhere: FileServer) -> Iterator[RunningServer]:
    folder = store_of_all.parent
    (folder / "more").mkdir()
    settings = {"allowed_urls": f"{elsewhere.url}/models/,file://{folder}/more/", **_LIMITS}
    with RunningServer(folder / "server", store_of_all, settings=settings) as server:
        yield server


@pytest.fixture(scope="module")
def victim(server_of_all: RunningServer) -> Iterator[Victim]:
    victim = Victim(server_of_all)
    belongings = Belongings(server_of_all)
    yield victim
    victim.close()
    belongings.check()
