"""What TorchServe's inference port serves besides predictions: the health check and the API's description."""

from __future__ import annotations

from collections.abc import Sequence

import orjson
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute

from pdserver.dialects.torchserve.ping import ping_json
from pdserver.dialects.torchserve.workflows import check_workflow, is_workflow
from pdserver.engine.catalogue import Catalogue
from pdserver.http.asgi import json_response
from pdserver.http.openapi import Json, document, operation
from pdserver.security.access import INFERENCE, OPEN
from pdserver.security.routes import Route

_BODY = {
    "application/json": {"schema": {}},
    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    "multipart/form-data": {"schema": {"type": "object"}},
}
_ANSWERS = {
    200: "The handler's answer.",
    400: "The input is not what the model takes.",
    404: "No such model or version.",
    413: "The body is too large.",
    500: "The handler failed.",
    503: "No worker can serve it now, or too many requests wait; see Retry-After.",
    504: "No answer in time.",
}

_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>pdserver</title>
<h1>pdserver</h1>
<p>This port answers predictions: POST /predictions/MODEL.</p>
<ul>
<li><a href="openapi.json">openapi.json</a>: the calls, with a path for each model that is served</li>
<li><a href="v1/models">v1/models</a>: the models</li>
<li><a href="ping">ping</a>: whether all that should be served is</li>
<li><a href="v2">v2</a>: the Open Inference Protocol</li>
</ul>
<p>Models are managed, and metrics fetched, on ports of their own. docs/quickstart.md of the distribution says more.</p>
</html>
"""
"""For browsers: addresses are relative, so that they hold behind whatever proxy. KServe asks for the same with JSON."""


def routes(catalogue: Catalogue, *, details: bool) -> list[BaseRoute]:
    """With `details`, the health check says what is wrong."""

    async def ping(_: Request) -> Response:
        health = catalogue.health()
        return json_response(200 if health.healthy else 503, ping_json(health, details=details))

    async def front(request: Request) -> Response:
        as_page = "text/html" in request.headers.get("accept", "")
        answer = HTMLResponse(_PAGE) if as_page else json_response(200, b'{"status":"alive"}')
        answer.headers["vary"] = "accept"
        return answer

    async def api(_: Request) -> Response:
        names = [model.name for model in catalogue]
        document = inference_api(names, [name for name in names if is_workflow(catalogue, name)])
        return json_response(200, orjson.dumps(document, option=orjson.OPT_INDENT_2))

    async def model_api(request: Request) -> Response:
        name = catalogue.model(request.path_params["name"]).name
        return json_response(200, orjson.dumps(inference_api([name]), option=orjson.OPT_INDENT_2))

    async def workflow_api(request: Request) -> Response:
        name = request.path_params["name"]
        check_workflow(catalogue, name)
        return json_response(200, orjson.dumps(inference_api([], [name]), option=orjson.OPT_INDENT_2))

    return [
        Route("/ping", ping, OPEN, ["GET", "POST"]),
        Route("/", front, OPEN),
        Route("/", api, INFERENCE, ["OPTIONS"]),
        Route("/api-description", api, INFERENCE, ["GET", "OPTIONS"]),
        Route("/openapi.json", api, INFERENCE),
        Route("/predictions/{name}", model_api, INFERENCE, ["OPTIONS"]),
        Route("/predictions/{name}/{version}", model_api, INFERENCE, ["OPTIONS"]),
        Route("/wfpredict/{name}", workflow_api, INFERENCE, ["OPTIONS"]),
    ]


def inference_api(models: Sequence[str], workflows: Sequence[str] = ()) -> Json:
    """The OpenAPI document of the inference port, with a path for each model, and one more for each workflow."""
    paths: dict[str, Json] = {
        "/ping": {
            "get": operation("ping", "Whether everything that should be served is.", {200: "Yes.", 503: "No, and why."})
        }
    }
    for name in models:
        predict = operation(f"predict_{name}", f"Ask {name} for a prediction.", _ANSWERS, body=_BODY)
        paths[f"/predictions/{name}"] = {"post": predict}
    for name in workflows:
        predict = operation(f"predict_workflow_{name}", f"Ask the workflow {name}.", _ANSWERS, body=_BODY)
        paths[f"/wfpredict/{name}"] = {"post": predict}
    return document("pdserver inference API", paths)
