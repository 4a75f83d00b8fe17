"""Paddle Serving's languages, so that its clients work as they are."""

from __future__ import annotations

from pdserver.dialects.codec import Codec
from pdserver.dialects.dialect import Dialect
from pdserver.dialects.paddle import pages
from pdserver.dialects.paddle.door import SEGMENTS, GeneralDoor
from pdserver.dialects.paddle.errors import WORDS
from pdserver.dialects.paddle.models import Models
from pdserver.dialects.paddle.pipeline_service import PipelineService
from pdserver.dialects.paddle.service import GeneralService
from pdserver.dialects.paddle.web_door import WebDoor
from pdserver.engine.catalogue import InferenceEngine

NAME = "paddle"


def dialect(engine: InferenceEngine, codec: Codec, *, default_model: str, limit_bytes: int) -> Dialect:
    """`default_model` is meant where a request names none; empty: the only one. `limit_bytes`: of a body."""
    models = Models(engine.catalogue, default_model)
    general = GeneralDoor(models, codec, limit_bytes)
    return Dialect(
        name=NAME,
        words=WORDS,
        doors=dict.fromkeys(SEGMENTS, general),
        other_doors=[general, WebDoor(engine.catalogue, codec)],
        routes=pages.routes(engine),
        services=[GeneralService(engine, models, codec).service(), PipelineService(engine, models, codec).service()],
    )
