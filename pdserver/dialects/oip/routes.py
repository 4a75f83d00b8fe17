"""The Open Inference Protocol over REST, all but `infer`: health, metadata, and Triton's extensions, below /v2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from pdserver.dialects.compression import soon_decompressed
from pdserver.dialects.oip import needs
from pdserver.dialects.oip.generate_routes import generate_routes
from pdserver.dialects.oip.http import answer, done, encoding_of, json_object, received
from pdserver.dialects.oip.large import LOAD, Load
from pdserver.dialects.oip.metadata import model_config, model_metadata, model_stats, server_metadata
from pdserver.dialects.oip.protocol import OpenInference
from pdserver.dialects.oip.repository import Controlled, loading_of_json, parameters_of_json
from pdserver.dialects.oip.request import whole
from pdserver.dialects.oip.settings import TRACE, check_trace
from pdserver.dialects.oip.shared_memory import CudaRegions
from pdserver.engine.catalogue import ServedVersion
from pdserver.errors import InvalidRequest, Unsupported
from pdserver.formats.values import shown
from pdserver.http import asgi
from pdserver.security.access import PREDICTION, Need
from pdserver.security.routes import Route


def routes(protocol: OpenInference) -> list[Route]:
    """All of /v2 that is not an inference."""
    return [
        *_health_and_metadata(protocol),
        *generate_routes(protocol),
        *RepositoryRoutes(protocol).routes(),
        *_Settings(protocol).routes(),
        *_SharedMemory(protocol).routes(),
    ]


def _health_and_metadata(protocol: OpenInference) -> list[Route]:
    engine, catalogue = protocol.engine, protocol.engine.catalogue

    def asked_for(request: Request) -> ServedVersion:
        return protocol.find(request.path_params["name"], request.path_params.get("version"))

    async def live(_: Request) -> Response:
        return answer({"live": True})

    async def ready(_: Request) -> Response:
        healthy = catalogue.health().healthy
        return answer({"ready": healthy}, 200 if healthy else 400)

    async def model_ready(request: Request) -> Response:
        served = asked_for(request)
        return answer({"name": served.spec.name, "ready": served.is_ready}, 200 if served.is_ready else 400)

    async def server(_: Request) -> Response:
        return answer(server_metadata(protocol.server_id))

    async def models(_: Request) -> Response:
        return answer({"models": [model.name for model in catalogue]})

    async def metadata(request: Request) -> Response:
        return answer(model_metadata(catalogue, asked_for(request), request.path_params.get("version")))

    async def config(request: Request) -> Response:
        return answer(model_config(asked_for(request)))

    async def statistics(request: Request) -> Response:
        if "name" not in request.path_params:
            return answer(model_stats(engine, catalogue.versions()))
        served = asked_for(request)
        if "version" in request.path_params:
            return answer(model_stats(engine, [served]))
        return answer(model_stats(engine, catalogue.model(served.spec.name).versions.values()))

    return [
        Route("/v2", server, needs.METADATA),
        Route("/v2/health/live", live, needs.HEALTH),
        Route("/v2/health/ready", ready, needs.HEALTH),
        Route("/v2/models", models, needs.METADATA),
        Route("/v2/models/stats", statistics, needs.STATISTICS),
        *_of_model("", metadata, needs.METADATA),
        *_of_model("/ready", model_ready, needs.MODEL_HEALTH),
        *_of_model("/config", config, needs.MODEL_CONFIG),
        *_of_model("/stats", statistics, needs.STATISTICS),
        *_of_model("/infer", _only_post, PREDICTION, ["POST"]),
        *_of_model("/explain", _only_post, PREDICTION, ["POST"]),
    ]


def _of_model(suffix: str, endpoint: Any, need: Need, methods: Sequence[str] = ("GET",)) -> list[Route]:
    """The route of a model and that of its version."""
    return [
        Route(f"/v2/models/{{name}}{version}{suffix}", endpoint, need, methods)
        for version in ("", "/versions/{version}")
    ]


async def _only_post(_: Request) -> Response:
    """Valid inferences don't come here. This route tells clients why theirs is not valid."""
    raise InvalidRequest("the URL is not UTF-8")


class RepositoryRoutes:
    """The model repository extension."""

    def __init__(self, protocol: Controlled) -> None:
        self._protocol = protocol

    def routes(self) -> list[Route]:
        return [
            Route("/v2/repository/index", self.index, needs.REPOSITORY, ["POST"]),
            Route("/v2/repository/{repository}/index", _one_repository, needs.REPOSITORY, ["POST"]),
            Route("/v2/repository/models/{name}/load", self.load, needs.REPOSITORY, ["POST"]),
            Route("/v2/repository/models/{name}/unload", self.unload, needs.REPOSITORY, ["POST"]),
            Route("/v2/repository/{repository}/models/{name}/load", _one_repository, needs.REPOSITORY, ["POST"]),
            Route("/v2/repository/{repository}/models/{name}/unload", _one_repository, needs.REPOSITORY, ["POST"]),
        ]

    async def index(self, request: Request) -> Response:
        ready = (await json_object(request)).get("ready", False)
        if not isinstance(ready, bool):
            raise InvalidRequest(f"'ready' is {shown(ready)}: expected true or false")
        entries = await self._protocol.control.index(ready=ready)
        return answer([msgspec.to_builtins(entry) for entry in entries])

    async def load(self, request: Request) -> Response:
        protocol = self._protocol
        protocol.control.check_allowed()
        body = await received(request, protocol.limit_bytes, "max_request_size")
        encoding = encoding_of(request)
        plain = soon_decompressed(body, encoding, protocol.limit_bytes)
        if plain is None or plain.is_large:
            given = Load(body.data, encoding, protocol.limit_bytes)
            brought, files = await protocol.codec.run(LOAD, given, body.files, protocol.limit_bytes if encoding else 0)
            parameters = brought.parameters(files[0])
        else:
            parameters = loading_of_json(plain.data)
        await protocol.control.load(request.path_params["name"], parameters)
        asgi.note_change(request, f'Model "{request.path_params["name"]}" loaded')
        return done()

    async def unload(self, request: Request) -> Response:
        parameters = parameters_of_json(await json_object(request))
        await self._protocol.control.unload(request.path_params["name"], parameters)
        asgi.note_change(request, f'Model "{request.path_params["name"]}" unloaded')
        return done()


async def _one_repository(_: Request) -> Response:
    raise Unsupported("'repository_name' specification is not supported: the server has one repository; leave it out")


class _Settings:
    """The trace and the logging extension."""

    def __init__(self, protocol: OpenInference) -> None:
        self._protocol = protocol

    def routes(self) -> list[Route]:
        return [
            *(
                Route(path, self.trace, needs.TRACE, ["GET", "POST"])
                for path in ("/v2/trace/setting", "/v2/models/{name}/trace/setting")
            ),
            Route("/v2/logging", self.logs, needs.LOGGING),
            Route("/v2/logging", self.change_logs, needs.LOGGING, ["POST"]),
        ]

    async def trace(self, request: Request) -> Response:
        if name := request.path_params.get("name"):
            self._protocol.find(name, None)
        if request.method == "POST":
            check_trace(await json_object(request))
        return answer(TRACE)

    async def logs(self, _: Request) -> Response:
        return answer(self._protocol.logs.get())

    async def change_logs(self, request: Request) -> Response:
        given = await json_object(request)
        self._protocol.check_manageable()
        updated = self._protocol.logs.update(given)
        asgi.note_change(request, f"Log settings changed: {shown(given)}")
        return answer(updated)


class _SharedMemory:
    """The system shared memory extension; and of CUDA's, the calls that clients make to a server without it."""

    def __init__(self, protocol: OpenInference) -> None:
        self._protocol = protocol
        self._regions = protocol.regions
        self._cuda = CudaRegions(protocol.regions)

    def routes(self) -> list[Route]:
        system, cuda = "/v2/systemsharedmemory", "/v2/cudasharedmemory"
        return [
            Route(f"{system}/status", self.status, needs.SHARED_MEMORY_STATUS),
            Route(f"{system}/region/{{region}}/status", self.status, needs.SHARED_MEMORY_STATUS),
            Route(f"{system}/region/{{region}}/register", self.register, needs.SHARED_MEMORY, ["POST"]),
            Route(f"{system}/unregister", self.unregister, needs.SHARED_MEMORY, ["POST"]),
            Route(f"{system}/region/{{region}}/unregister", self.unregister, needs.SHARED_MEMORY, ["POST"]),
            Route(f"{cuda}/status", self.cuda_status, needs.SHARED_MEMORY_STATUS),
            Route(f"{cuda}/region/{{region}}/status", self.cuda_status, needs.SHARED_MEMORY_STATUS),
            Route(f"{cuda}/region/{{region}}/register", self.cuda_register, needs.SHARED_MEMORY, ["POST"]),
            Route(f"{cuda}/unregister", self.cuda_unregister, needs.SHARED_MEMORY, ["POST"]),
            Route(f"{cuda}/region/{{region}}/unregister", self.cuda_unregister, needs.SHARED_MEMORY, ["POST"]),
        ]

    async def status(self, request: Request) -> Response:
        regions = self._regions.status(request.path_params.get("region"))
        return answer([region.described() for region in regions])

    async def register(self, request: Request) -> Response:
        self._regions.check_enabled()
        given = await json_object(request)
        key = given.get("key")
        if not isinstance(key, str):
            raise InvalidRequest(f"'key' is {shown(key)}: expected the name of the shared memory, such as /my_region")
        offset, size = whole("offset", given.get("offset", 0)), whole("byte_size", given.get("byte_size"))
        self._regions.register(request.path_params["region"], key, offset, size)
        return done()

    async def unregister(self, request: Request) -> Response:
        self._regions.unregister(request.path_params.get("region"))
        return done()

    async def cuda_status(self, request: Request) -> Response:
        self._cuda.check(request.path_params.get("region"))
        return answer([])

    async def cuda_register(self, request: Request) -> Response:
        self._cuda.register(request.path_params["region"])
        return done()

    async def cuda_unregister(self, _: Request) -> Response:
        self._cuda.unregister()
        return done()
