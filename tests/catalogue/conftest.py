"""One server for all faults that leave it running."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.catalogue.ward import CANARY, Canary, Ward
from tests.conftest import pack_handler
from tests.running import RunningServer

CONFIGS = {
    "two": "minWorkers: 2\n",
    "one": "minWorkers: 1\n",
    "batch": "minWorkers: 2\nbatchSize: 8\nmaxBatchDelay: 600000\n",  # so that eight are always one batch
    "brief": "minWorkers: 2\nresponseTimeout: 1\n",
    "once": "minWorkers: 1\nretryOnWorkerDeath: false\n",
    "worn": "minWorkers: 2\nmaxRequestsPerWorker: 20\n",
    "heavy": "minWorkers: 1\nmaxWorkerMemoryMb: 150\n",
    CANARY: "minWorkers: 1\n",
}


@pytest.fixture(scope="package")
def the_ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    folder = tmp_path_factory.mktemp("ward")
    store = folder / "store"
    store.mkdir()
    for name, config in CONFIGS.items():
        # The faults here are on purpose, and many: their models are not given up for them.
        pack_handler(store, "faults", name=name, config=f"{config}maxWorkerDeaths: 1000\n")
    with RunningServer(folder / "server", store, "all") as server:
        canary = Canary(server)
        workers = {name: 2 if "minWorkers: 2" in config else 1 for name, config in CONFIGS.items()}
        ward = Ward(server, store, workers, canary)
        canary.start()
        try:
            for name in CONFIGS:
                ward.ask_for_a_batch(name)
            ward.descriptors = 10_000
            ward.check()
            ward.descriptors = (
                ward.open_descriptors() + 1
            )  # the neighbour's connection may just be between two requests
            yield ward
        finally:
            canary.stop()


@pytest.fixture
def ward(the_ward: Ward) -> Iterator[Ward]:
    """The server, whole before the test; afterwards it must be again."""
    yield the_ward
    the_ward.check()


@pytest.fixture
def mark(tmp_path: Path) -> str:
    """A file for what is to happen once."""
    return str(tmp_path / "mark")
