"""For LitServe: started with the interpreter of its environment, with the port as its argument."""

from __future__ import annotations

import base64
import os
import sys
from typing import Any

import litserve
from fastapi import Response

from bench.model import load_from_environment


class Predict(litserve.LitAPI):
    """Its requests are JSON. Other bodies come as base64 in it."""

    def setup(self, device: str) -> None:
        self.model = load_from_environment()

    def decode_request(self, request):  # noqa: ANN001, ANN201 - LitServe reads these two annotations
        return self.model.row(base64.b64decode(request["data"]) if "data" in request else request)

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, x: Any) -> Any:
        return self.model.answers(x) if isinstance(x, list) and self.max_batch_size > 1 else self.model.answers([x])[0]

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output):  # noqa: ANN001, ANN201
        return Response(output)


if __name__ == "__main__":
    api = Predict(
        max_batch_size=int(os.environ["BENCH_BATCH_SIZE"]),
        batch_timeout=int(os.environ["BENCH_MAX_BATCH_DELAY_MS"]) / 1000,
    )
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=int(os.environ["BENCH_WORKERS"]), timeout=False
    )
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
