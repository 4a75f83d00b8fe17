"""The OCR example's graph in BentoML: `bentoml serve ocr_bento:Pages`. OCR_MODELS and OCR_WORKERS say with what."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
import plain
import steps
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

MODELS, WORKERS = Path(os.environ["OCR_MODELS"]), json.loads(os.environ["OCR_WORKERS"])
TRAFFIC: Any = {"timeout": 120, "max_concurrency": 2000}
pages = Starlette()


class Model:
    """Inputs of equal shapes share a run. A call has all lines of a page, and BentoML batches calls."""

    name = ""

    def __init__(self) -> None:
        self._model: Any = None

    def answers(self, inputs: list[Any]) -> list[Any]:
        if self._model is None:  # in the thread that runs it
            self._model = plain.load(MODELS / self.name)
        return list(plain.run_together(self._model, inputs))


@bentoml.service(workers=WORKERS["detect"], traffic=TRAFFIC)
class Detect(Model):
    name = "det"

    @bentoml.api
    def run(self, inputs: list[Any]) -> list[Any]:
        return self.answers(inputs)


@bentoml.service(workers=WORKERS["classify"], traffic=TRAFFIC)
class Classify(Model):
    name = "cls"

    @bentoml.api(batchable=True, max_batch_size=64)
    def run(self, inputs: list[Any]) -> list[Any]:
        return self.answers(inputs)


@bentoml.service(workers=WORKERS["recognise"], traffic=TRAFFIC)
class Recognise(Model):
    name = "rec"

    @bentoml.api(batchable=True, max_batch_size=32)
    def run(self, inputs: list[Any]) -> list[Any]:
        return [(chances[0].argmax(axis=1), chances[0].max(axis=1)) for chances in self.answers(inputs)]


@bentoml.service(workers=WORKERS["code"], traffic=TRAFFIC)
@bentoml.asgi_app(pages)
class Pages:
    detect: Any = bentoml.depends(Detect)
    classify: Any = bentoml.depends(Classify)
    recognise: Any = bentoml.depends(Recognise)

    def __init__(self) -> None:
        self.characters = steps.read_characters(MODELS / "characters.txt")
        pages.router.routes.append(Route("/pages", self.read, methods=["POST"]))

    async def read(self, request: Request) -> JSONResponse:
        image = steps.decode(await request.body())
        (found,) = await self.detect.to_async.run([steps.for_detection(image)])
        boxes = steps.boxes_in(found, image)
        crops = [np.ascontiguousarray(steps.cut_out(image, box)) for box in boxes]
        directions = await self.classify.to_async.run([steps.face(crop) for crop in crops])
        made = [steps.upright(crop, direction) for crop, direction in zip(crops, directions, strict=True)]
        texts = await self.recognise.to_async.run([line for line, _ in made])
        read = [(at, steps.text_of(*text, self.characters)) for at, text in enumerate(texts)]
        return JSONResponse({"result": steps.result(image.shape[:2], boxes, [turned for _, turned in made], read)})
