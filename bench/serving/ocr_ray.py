"""The OCR example's graph in Ray Serve: `ocr_ray.py MODELS PORT WORKERS`."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import plain
import steps
from ray import serve
from starlette.requests import Request

MODELS, PORT, WORKERS = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
CPUS = {"num_cpus": 0.01}
"""So that all replicas find a place on any machine."""
WAIT_SECONDS = 0.005


class Model:
    """Requests of equal shapes share a run."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._model: Any = None

    def run(self, inputs: list[Any]) -> list[Any]:
        if self._model is None:  # in the thread that runs it
            self._model = plain.load(MODELS / self._name)
        return list(plain.run_together(self._model, inputs))


@serve.deployment(num_replicas=WORKERS["detect"], max_ongoing_requests=100, ray_actor_options=CPUS)
class Detect(Model):
    def __init__(self) -> None:
        super().__init__("det")

    async def __call__(self, x: Any) -> Any:
        return self.run([x])[0]


@serve.deployment(num_replicas=WORKERS["classify"], max_ongoing_requests=2000, ray_actor_options=CPUS)
class Classify(Model):
    def __init__(self) -> None:
        super().__init__("cls")

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=WAIT_SECONDS)
    async def __call__(self, x: list[Any]) -> list[Any]:
        return self.run(x)


@serve.deployment(num_replicas=WORKERS["recognise"], max_ongoing_requests=2000, ray_actor_options=CPUS)
class Recognise(Model):
    def __init__(self) -> None:
        super().__init__("rec")

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=WAIT_SECONDS)
    async def __call__(self, x: list[Any]) -> list[Any]:
        return [(chances[0].argmax(axis=1), chances[0].max(axis=1)) for chances in self.run(x)]


@serve.deployment(num_replicas=WORKERS["code"], max_ongoing_requests=100, ray_actor_options=CPUS)
class Pages:
    def __init__(self, detect: Any, classify: Any, recognise: Any) -> None:
        self.detect, self.classify, self.recognise = detect, classify, recognise
        self.characters = steps.read_characters(MODELS / "characters.txt")

    async def __call__(self, request: Request) -> dict[str, Any]:
        image = steps.decode(await request.body())
        boxes = steps.boxes_in(await self.detect.remote(steps.for_detection(image)), image)
        crops = [np.ascontiguousarray(steps.cut_out(image, box)) for box in boxes]
        directions = await asyncio.gather(*(self.classify.remote(steps.face(crop)) for crop in crops))
        made = [steps.upright(crop, direction) for crop, direction in zip(crops, directions, strict=True)]
        found = await asyncio.gather(*(self.recognise.remote(line) for line, _ in made))
        read = [(at, steps.text_of(*each, self.characters)) for at, each in enumerate(found)]
        return {"result": steps.result(image.shape[:2], boxes, [turned for _, turned in made], read)}


if __name__ == "__main__":
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run(Pages.bind(Detect.bind(), Classify.bind(), Recognise.bind()), blocking=True)
