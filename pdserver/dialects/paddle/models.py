"""Which model a request means. Paddle Serving has one model to a port, so its clients name none."""

from __future__ import annotations

from pdserver.dialects.base import Headers
from pdserver.engine.catalogue import Catalogue, ServedVersion
from pdserver.errors import InvalidRequest, Unavailable
from pdserver.formats.values import listed

QUERY = "model_name"
_HEADERS = frozenset({b"model-name", b"model_name"})
"""HTTP's, and gRPC's metadata."""
KEY = "paddle_serving_model"


class Models:
    """`default` is the name that the server's configuration gives; empty: none."""

    def __init__(self, catalogue: Catalogue, default: str) -> None:
        self._catalogue = catalogue
        self._default = default

    def meant(self, named: str) -> ServedVersion:
        """The default version of the model that the request names; if it names none, that of the configuration's, or of
        the only one.

        Raises ModelNotFound, VersionNotFound; InvalidRequest if any of several may be meant; Unavailable if nothing is
        served.
        """
        name = named or self._default
        if name:
            return self._catalogue.asked(name, None)
        only = self._catalogue.only
        if only is not None:
            return only.default
        names = [model.name for model in self._catalogue]
        if not names:
            raise Unavailable("no model is served" + (": GET /ping says why" if self._catalogue.missing else ""))
        raise InvalidRequest(
            f"which model is meant? {listed(names)} are served. Name one in the path, "
            f"/{names[0]}/GeneralModelService/inference, by ?{QUERY}={names[0]}, by the header model-name, or by "
            f"gRPC's metadata model_name; or set the default, {KEY}={names[0]}, in the server's configuration"
        )


def named_in(headers: Headers) -> str:
    """The model that the headers name; empty: none."""
    for name, value in headers:
        if name in _HEADERS:
            return value.decode("latin-1")
    return ""
