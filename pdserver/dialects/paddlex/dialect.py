"""PaddleX's contract as a dialect."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from pdserver.configuration.sources import AllowedUrls
from pdserver.dialects.codec import Codec
from pdserver.dialects.dialect import Dialect
from pdserver.dialects.paddlex.answers import WORDS, enveloped
from pdserver.dialects.paddlex.door import CONTRACTS, PaddlexDoor
from pdserver.dialects.paddlex.urls import Pictures
from pdserver.engine.catalogue import Catalogue, InferenceEngine
from pdserver.security.access import OPEN
from pdserver.security.routes import Route

NAME = "paddlex"


def dialect(engine: InferenceEngine, codec: Codec, *, image_urls: AllowedUrls, limit_bytes: int) -> Dialect:
    """`image_urls` are where requests may have pictures from; `limit_bytes`: of a picture."""
    door = PaddlexDoor(engine.catalogue, codec, Pictures(image_urls, limit_bytes))
    return Dialect(name=NAME, words=WORDS, other_doors=[door], routes=[_Health(engine.catalogue)])


class _Health(Route):
    """GET /health, in the envelope, where a pipeline with one of the contracts is served. On other servers, it is
    Paddle Serving's page."""

    def __init__(self, catalogue: Catalogue) -> None:
        super().__init__("/health", self._answer, OPEN.of("health"))
        self._catalogue = catalogue

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if any(served.contract.startswith(CONTRACTS) for served in self._catalogue.versions()):
            return super().matches(scope)
        return Match.NONE, {}

    async def _answer(self, _: Request) -> Response:
        if self._catalogue.health().healthy:
            return Response(enveloped(0, "Healthy"), media_type="application/json")
        said = "not everything that should be served is"
        return Response(enveloped(503, said), 503, media_type="application/json")
