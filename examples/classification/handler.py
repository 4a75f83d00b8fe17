"""Pictures in base64 in, the likeliest label of each out: what PaddleClas's web_service.py does in Paddle Serving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pdserver.errors import InvalidRequest
from pdserver.handlers.base import Arrays, BaseHandler
from pdserver.handlers.context import Context
from pdserver.handlers.reader import (
    RGB2BGR,
    Base64ToImage,
    CenterCrop,
    Div,
    Normalize,
    Resize,
    Sequential,
    Transpose,
)

SIDE = 224
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class ClassificationHandler(BaseHandler):
    """`{"image": base64, …}` → `{"label": [name, …], "prob": [probability, …]}`, an element for each picture."""

    def initialize(self, context: Context) -> None:
        super().initialize(context)
        steps = [Resize(256), CenterCrop(SIDE), RGB2BGR(), Transpose((2, 0, 1)), Div(255), Normalize(MEAN, STD, True)]
        self.prepare = Sequential([Base64ToImage(), *steps])
        names = Path("label_list.txt")  # a worker's working directory is its model's
        self.labels = names.read_text("utf-8").splitlines() if names.is_file() else []

    def preprocess(self, data: list[dict[str, Any]]) -> Arrays:
        """float32 of shape [pictures, 3, 224, 224]; `places` says which pictures are whose."""
        pictures: list[Any] = []
        places: list[slice | InvalidRequest] = []
        for request in data:
            body = request.get("body", request)
            try:
                own = [self.prepare(text) for text in (body.values() if isinstance(body, dict) else [body])]
            except InvalidRequest as error:
                places.append(error)
            else:
                places.append(slice(len(pictures), len(pictures) + len(own)))
                pictures += own
        self.places = places
        return {"image": np.array(pictures, np.float32).reshape(-1, 3, SIDE, SIDE)}

    def postprocess(self, outputs: Arrays) -> list[tuple[str, float]]:
        return [(self._label(int(row.argmax())), float(row.max())) for row in outputs["prediction"]]

    def handle(self, data: list[dict[str, Any]], context: Context) -> list[Any]:
        answers = super().handle(data, context)
        return [answer if isinstance(answer, Exception) else _columns(answer) for answer in answers]

    def _label(self, number: int) -> str:
        return self.labels[number] if self.labels else str(number)


def _columns(pictures: list[tuple[str, float]]) -> dict[str, list[Any]]:
    return {"label": [label for label, _ in pictures], "prob": [chance for _, chance in pictures]}
