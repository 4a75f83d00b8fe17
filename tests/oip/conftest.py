"""One server for all tests of the Open Inference Protocol: with its own ports, and with all that is off by default."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pdarchiver.pack import PackOptions, pack
from tests.conftest import fit_file, pack_handler
from tests.running import RunningServer, free_ports

QUEUES = "batchSize: 8\npreferredBatchSizes: [4, 8]\npriorityLevels: 3\nqueuePolicy: {timeout: 20000}\n"
EXTENSIONS_ON = {"model_control_mode": "explicit", "allow_client_shm": "true", "server_id": "triton"}


def pack_fit(store: Path, fit_model: Path, name: str = "fit", version: str = "1", batch_size: int = 8) -> None:
    config = store.parent / f"{name}-{version}.yaml"
    config.write_text(f"batchSize: {batch_size}\nmaxBatchDelay: 0\n")
    packed = pack(
        PackOptions(
            model_name=name,
            version=version,
            serialized_file=fit_file(fit_model),
            config_file=config,
            export_path=store,
        )
    )
    packed.rename(store / f"{name}-{version}.pdar")


class OipServer(RunningServer):
    """`oip` and `oip_grpc` are the protocol's own ports, as host:port."""

    def __init__(self, folder: Path, store: Path, settings: dict[str, str]) -> None:
        self.oip, self.oip_grpc = (f"127.0.0.1:{port}" for port in free_ports(2))
        ports = {"oip_address": f"http://{self.oip}", "oip_grpc_address": f"http://{self.oip_grpc}"}
        super().__init__(folder, store, "all", {**ports, **settings})

    def __enter__(self) -> OipServer:
        self.start()
        return self


@pytest.fixture(scope="session")
def oip_server(tmp_path_factory: pytest.TempPathFactory, fit_model: Path) -> Iterator[OipServer]:
    folder = tmp_path_factory.mktemp("oip")
    store = folder / "store"
    store.mkdir()
    pack_fit(store, fit_model)
    pack_fit(store, fit_model, version="2")
    pack_handler(store, "echo", version="1", config=QUEUES)
    for name in ("mirror", "stream", "chaos"):
        pack_handler(store, name, version="1", config="batchSize: 4\n")
    pack_handler(store, "mirror", name="spare", version="1")
    pack_handler(store, "chaos", name="narrow", version="1", config="jobQueueSize: 1\n")
    pack_handler(store, "counter", version="1", config="sequenceBatching: true\nmaxNumSequence: 4\nbatchSize: 4\n")
    with OipServer(folder / "server", store, EXTENSIONS_ON) as server:
        yield server
