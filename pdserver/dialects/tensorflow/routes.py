"""Over REST all but predictions: the models, their states and their metadata, below /v1.

GET /v1/models/{model} answers clients of TensorFlow Serving and of KServe's first protocol at once. The latter look at
the status: 503 says that the default version can't be asked. The former read the versions' states, whatever it is.
"""

from __future__ import annotations

import re
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from pdserver.dialects.rpc import Code
from pdserver.dialects.tensorflow import needs
from pdserver.dialects.tensorflow.control import State
from pdserver.dialects.tensorflow.errors import malformed
from pdserver.dialects.tensorflow.metadata import metadata_json
from pdserver.dialects.tensorflow.served import Models, NamedStatus
from pdserver.http.asgi import json_response
from pdserver.security.access import Need
from pdserver.security.routes import Route


def routes(models: Models) -> list[BaseRoute]:
    async def names(_: Request) -> Response:
        return _answer({"models": [model.name for model in models.catalogue]})

    async def status(request: Request) -> Response:
        name = _name_in(request)
        found = _statuses(models.statuses(name))
        ready = models.catalogue.knows(name) and models.catalogue.resolve(name, None).is_ready
        return _answer({"name": name, "ready": ready, **found}, 200 if ready else 503)

    async def of_label(request: Request) -> Response:
        return _answer(_statuses(models.statuses(_name_in(request))))

    async def of_version(request: Request) -> Response:
        return _answer(_statuses(models.statuses(_name_in(request), request.path_params["version"])))

    async def metadata(request: Request) -> Response:
        given = request.path_params
        served = models.meant(_name_in(request), given.get("version", ""), given.get("label", ""))
        return _answer(metadata_json(served))

    model = "/v1/models/{name}"
    return [
        _route("/v1/models", names, needs.METADATA),
        _route(model, status, needs.STATUS),
        _route(f"{model}/labels/{{label}}", of_label, needs.STATUS),
        _route(f"{model}/versions/{{version}}", of_version, needs.STATUS),
        *(
            _route(f"{model}{which}/metadata", metadata, needs.METADATA)
            for which in ("", "/labels/{label}", "/versions/{version}")
        ),
    ]


def _route(path: str, endpoint: Any, need: Need) -> Route:
    """In capitals or not."""
    route = Route(path, endpoint, need)
    route.path_regex = re.compile(route.path_regex.pattern, re.IGNORECASE)
    return route


def _name_in(request: Request) -> str:
    """The model's name. Raises InvalidRequest for a colon in the path, which begins a verb."""
    if ":" in request.scope["path"]:
        raise malformed(request.method, request.scope["raw_path"])
    return str(request.path_params["name"])


def _statuses(found: list[NamedStatus]) -> dict[str, Any]:
    return {"model_version_status": [_version(status) for status in found]}


def _version(status: NamedStatus) -> dict[str, Any]:
    said = {"error_code": Code(status.code).name, "error_message": status.message}
    return {"version": status.name, "state": State(status.state).name, "status": said}


def _answer(value: object, status: int = 200) -> Response:
    return json_response(status, orjson.dumps(value))
