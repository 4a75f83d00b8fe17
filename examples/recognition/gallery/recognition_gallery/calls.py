"""Calls on the management port that show and change the gallery. The server finds them by their entry point.

    GET    /gallery                  {"generation": 3, "entries": [{"id": 0, "label": "Luna"}, …]}
    POST   /gallery?label=Comet      the body is a picture of the label alone; {"id": 8, "label": "Comet"}
    DELETE /gallery/8                {"id": 8, "label": "Comet"}

They need what the port's other calls need: a token for management, if there are tokens.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import uuid4

import numpy as np
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from pdserver.dialects.torchserve.errors import failure_json
from pdserver.engine.catalogue import InferenceEngine
from pdserver.errors import InvalidRequest, PdError
from pdserver.security.access import MANAGEMENT
from pdserver.security.routes import Route
from pdserver.types import Failure, Part, Request
from recognition_gallery.index import Gallery, Vectors

FOLDER = "RECOGNITION_GALLERY"
"""The environment variable that names the gallery's folder."""
FEATURES = "features"
"""The pipeline that makes a vector of a picture."""


class Calls:
    def __init__(self, engine: InferenceEngine, gallery: Gallery) -> None:
        self._engine = engine
        self._gallery = gallery
        self._turn = asyncio.Lock()

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/gallery", self.show, MANAGEMENT),
            Route("/gallery", self.add, MANAGEMENT, ["POST"]),
            Route("/gallery/{entry:int}", self.remove, MANAGEMENT, ["DELETE"]),
        ]

    async def show(self, request: HttpRequest) -> Response:
        async with self._turn:
            try:
                await asyncio.to_thread(self._gallery.refresh)
            except FileNotFoundError:
                message = f"no gallery in {self._gallery.folder} yet: POST /gallery?label=NAME adds the first entry"
                return JSONResponse({"code": 404, "message": message}, 404)
            entries = [{"id": key, "label": label} for key, label in self._gallery.labels.items()]
            return JSONResponse({"generation": self._gallery.generation, "entries": entries})

    async def add(self, request: HttpRequest) -> Response:
        label = request.query_params.get("label", "").strip()
        try:
            if not label:
                raise InvalidRequest("say what the picture shows: POST /gallery?label=NAME")
            vector = await self._vector(await request.body())
        except PdError as error:
            return _failed(Failure.of(error))
        if isinstance(vector, Failure):
            return _failed(vector)
        async with self._turn:
            try:
                [entry] = await asyncio.to_thread(self._gallery.add, [label], vector)
            except ValueError as error:
                return JSONResponse({"code": 409, "message": str(error)}, 409)
        return JSONResponse({"id": entry, "label": label})

    async def remove(self, request: HttpRequest) -> Response:
        entry = request.path_params["entry"]
        async with self._turn:
            try:
                label = await asyncio.to_thread(self._gallery.remove, entry)
            except KeyError:
                return JSONResponse({"code": 404, "message": f"the gallery has no entry {entry}"}, 404)
        return JSONResponse({"id": entry, "label": label})

    async def _vector(self, picture: bytes) -> Vectors | Failure:
        """float32 [1, size]. Raises PdError when the pipeline does not take the request."""
        parts: list[Part] = [Part("image", "application/octet-stream", picture)]
        outcome = await self._engine.ask(Request(FEATURES, None, str(uuid4()), [*parts], typed=True))
        if isinstance(outcome, Failure):
            return outcome
        return np.frombuffer(outcome.tensors[0].data, np.float32).reshape(1, -1)


def endpoints(engine: InferenceEngine) -> Mapping[str, Sequence[BaseRoute]]:
    if FOLDER not in os.environ:
        raise LookupError(f"{FOLDER} does not say where the gallery is: no calls to change it")
    return {"management": Calls(engine, Gallery(Path(os.environ[FOLDER]))).routes()}


def _failed(failure: Failure) -> Response:
    status, body = failure_json(failure)
    return Response(body, status, media_type="application/json")
