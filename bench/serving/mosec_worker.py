"""For mosec: started with the interpreter of its environment."""

from __future__ import annotations

import os
from typing import Any

from mosec import Server, Worker

from bench.model import load_from_environment


class Predict(Worker):
    """Decodes, runs and answers in one stage, since a second stage would need a second process and a copy."""

    resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        super().__init__()
        self._model = load_from_environment()

    def deserialize(self, data: bytes) -> Any:
        return self._model.row(data)

    def forward(self, data: Any) -> Any:
        if self.max_batch_size == 1:
            return self._model.answers([data])[0]
        return self._model.answers(data)

    def serialize(self, data: bytes) -> bytes:
        return data


if __name__ == "__main__":
    server = Server()
    server.append_worker(
        Predict,
        num=int(os.environ["BENCH_WORKERS"]),
        max_batch_size=int(os.environ["BENCH_BATCH_SIZE"]),
        max_wait_time=int(os.environ["BENCH_MAX_BATCH_DELAY_MS"]),
    )
    server.run()
