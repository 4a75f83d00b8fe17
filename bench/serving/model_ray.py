"""The comparison's model in Ray Serve, a replica on each of some nodes: `model_ray.py PORT NODES BATCH_SIZE`."""

from __future__ import annotations

import signal
import sys
from typing import Any

import ray
from ray import serve
from ray.cluster_utils import Cluster
from starlette.requests import Request
from starlette.responses import Response

from bench import model

PORT, NODES, BATCH_SIZE = map(int, sys.argv[1:])
_STORE_BYTES = 80 * 2**20
_NODE = {"num_cpus": 2, "object_store_memory": _STORE_BYTES, "include_dashboard": False}


@serve.deployment(
    num_replicas=NODES, max_replicas_per_node=1, max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0.1}
)
class Predict:
    def __init__(self) -> None:
        self._model: Any = None

    async def __call__(self, request: Request) -> Response:
        return Response(await self.answer(await request.body()), media_type="application/json")

    @serve.batch(max_batch_size=BATCH_SIZE, batch_wait_timeout_s=0)
    async def answer(self, bodies: list[bytes]) -> list[bytes]:
        if self._model is None:  # in the thread that runs it
            self._model = model.load_from_environment()
        return self._model.answers([self._model.row(body) for body in bodies])  # type: ignore[no-any-return]


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args=_NODE)
    try:
        for _ in range(NODES - 1):
            cluster.add_node(**_NODE)
        cluster.connect()
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": PORT})
        serve.run(Predict.bind(), name="bench", route_prefix="/")
        print("ready", flush=True)
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
    finally:
        ray.shutdown()  # Serve's own way to shut down waits for half a minute
        cluster.shutdown()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
