"""One server for the tests of Paddle Serving's languages; `uci` is what requests mean that name no model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pdarchiver.archive import inspect
from pdarchiver.pack import PackOptions, pack
from tests.conftest import fit_file, pack_handler
from tests.running import RunningServer, free_ports


def pack_uci(store: Path, fit_model: Path, name: str = "uci") -> str:
    """The tutorials' model with the names that it has there; gives the model's own name for `price`."""
    options = PackOptions(model_name=name, version="1.0", serialized_file=fit_file(fit_model), export_path=store)
    signature = inspect(pack(options)).manifest.signature
    assert signature is not None
    own_name = signature.outputs[0].source
    config = store.parent / f"{name}.yaml"
    config.write_text(f"batchSize: 8\ninputs: {{x: features}}\noutputs: {{{own_name}: price}}\n")
    pack(
        PackOptions(
            model_name=name,
            version="1.0",
            serialized_file=fit_file(fit_model),
            config_file=config,
            export_path=store,
            force=True,
        )
    )
    return own_name


class PaddleServer(RunningServer):
    """`own_input` and `own_name` are what the model itself calls `features` and `price`."""

    own_input = "x"
    own_name = ""

    def __enter__(self) -> PaddleServer:
        self.start()
        return self


@pytest.fixture(scope="session")
def paddle_server(tmp_path_factory: pytest.TempPathFactory, fit_model: Path) -> Iterator[PaddleServer]:
    folder = tmp_path_factory.mktemp("paddle")
    store = folder / "store"
    store.mkdir()
    own_name = pack_uci(store, fit_model)
    pack_handler(store, "general_echo", config="batchSize: 4\n")
    pack_handler(store, "chaos")
    pack_handler(store, "appraiser")
    [port] = free_ports(1)
    settings = {
        "paddle_serving_model": "uci",
        "max_request_size": "8000000",
        "paddle_serving_address": f"http://127.0.0.1:{port}",
    }
    with PaddleServer(folder / "server", store, "all", settings) as server:
        server.own_name = own_name
        yield server
