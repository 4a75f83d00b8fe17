"""A repository, and servers of it with clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient import http as triton

from tests.running import RunningServer


class Repository:
    """A server in the explicit mode, whose repository is `folder`, and a client of Triton's for it."""

    def __init__(self, server: RunningServer, folder: Path, weights: Path) -> None:
        self.server = server
        self.folder = folder
        self.client = self.new_client()
        known = np.load(weights)
        self._w, self._b = known["w"], known["b"]

    def new_client(self) -> triton.InferenceServerClient:
        """Each thread needs its own."""
        return triton.InferenceServerClient(self.server.inference.removeprefix("http://"))

    def states(self, name: str) -> dict[str, str]:
        """Version → state, as the index has them."""
        return {
            entry["version"]: entry["state"]
            for entry in self.client.get_model_repository_index()
            if entry["name"] == name and "version" in entry
        }

    def infer(
        self, name: str, version: str = "", rows: int = 1, client: triton.InferenceServerClient | None = None
    ) -> NDArray[np.float32]:
        """Whether what comes back is what the weights say is asserted here."""
        x = np.random.default_rng(rows).normal(size=(rows, 13)).astype(np.float32)
        given = triton.InferInput("x", list(x.shape), "FP32").set_data_from_numpy(x)
        result = (client or self.client).infer(name, [given], version)
        [output] = result.get_response()["outputs"]
        answer: NDArray[np.float32] = result.as_numpy(output["name"])
        np.testing.assert_allclose(answer, self.expected(x), rtol=1e-4, atol=1e-5)
        return answer

    def expected(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the weights say."""
        found: NDArray[np.float32] = x @ self._w + self._b
        return found


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, fit_model: Path) -> Iterator[Repository]:
    folder = tmp_path_factory.mktemp("repository")
    store = tmp_path_factory.mktemp("store")
    settings = {"model_repository": str(folder), "model_control_mode": "explicit"}
    with RunningServer(tmp_path_factory.mktemp("server"), store, "", settings) as server:
        repository = Repository(server, folder, fit_model / "weights.npz")
        yield repository
        repository.client.close()
