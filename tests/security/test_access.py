"""With tokens, every call of every port needs one with the right scope, over REST and over gRPC."""

from __future__ import annotations

import http.client
import itertools
import json
import re
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests

from pdserver.configuration.tokens import Scope
from pdserver.prpc.errors import Errno
from pdserver.security.access import INFERENCE, Need
from tests.conftest import pack_handler
from tests.grpc_client import access_log
from tests.prpc_client import Prpc
from tests.running import RunningServer, clean_environment, eventually, free_ports
from tests.security.raw import place, talk

PORTS = ("inference", "management", "metrics")
UNGUARDED = {"/ping", "/ping/", "/health", "/v2/health/live", "/v2/health/ready"}
ALIVE = (("GET", "/"), ("HEAD", "/"))
"""KServe's question whether the server lives."""
WRONG = "wrong-" * 8
PREDICTIONS = [
    ("inference", "POST", path)
    for path in (
        *("/predictions/chaos", "/explanations/chaos", "/models/chaos/invoke", "/invocations", "/chaos/predict"),
        *("/v1/models/chaos:predict", "/v1/models/chaos/versions/1:classify", "/v2/models/chaos/infer"),
        *("/GeneralModelService/inference", "/chaos/GeneralModelService/debug", "/chaos/prediction"),
    )
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("access")
    store = folder / "store"
    store.mkdir()
    pack_handler(store, "chaos")
    oip, oip_grpc, paddle, tensorflow, tensorflow_grpc = (f"http://127.0.0.1:{port}" for port in free_ports(5))
    settings = {
        "token_file": str(folder / "tokens.json"),
        "metrics_token_authorization": "true",
        "oip_address": oip,
        "oip_grpc_address": oip_grpc,
        "paddle_serving_address": paddle,
        "tensorflow_address": tensorflow,
        "tensorflow_grpc_address": tensorflow_grpc,
    }
    with RunningServer(folder / "server", store, "all", settings) as server:
        yield server


@pytest.fixture(scope="module")
def tokens(server: RunningServer) -> dict[str, str]:
    content = json.loads(Path(server.settings["token_file"]).read_text())
    return {name: entry["key"] for name, entry in content.items()}


def ask(url: str, method: str, path: str, token: str | None) -> requests.Response:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return requests.request(method, url + path, headers=headers, timeout=60)


# The file


def test_the_file_is_private_and_its_tokens_are_long(server: RunningServer, tokens: dict[str, str]) -> None:
    path = Path(server.settings["token_file"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert set(tokens) == {"inference", "management", "admin"}
    assert len(set(tokens.values())) == 3
    assert all(re.fullmatch(r"[\w-]{43}", token) for token in tokens.values())
    assert f"tokens          {path}\n" in server.log()


# Every route, generated from the server's own


def routes() -> list[tuple[str, str, str]]:
    """(port, method, path) of every route that the server has, and of some that it hasn't."""
    from tests.security.surface import http_routes

    found = []
    for port, route in http_routes():
        if port in ("oip", "tensorflow"):
            continue  # the same as on the inference port
        path = re.sub(r"\{\w+(:\w+)?\}", "chaos", route.path)
        found += [(port, method, path) for method in sorted(route.methods or {"GET"})]
    found += PREDICTIONS
    found += [
        (port, "GET", path) for port in PORTS for path in ("/", "/nowhere", "/ping/", "/PING", "//ping", "/%70ing")
    ]
    return sorted(set(found))


_sources = itertools.cycle(f"127.0.0.{number}" for number in range(2, 250))
"""As many clients: one that fails again and again is slowed down."""


def status_of(url: str, method: str, path: str, token: str | None, source: str = "") -> int:
    """The status of an answer; a refusal has the form that refusals have."""
    connection = http.client.HTTPConnection(*place(url), timeout=60, source_address=(source or next(_sources), 0))
    try:
        connection.request(method, path, headers={"Authorization": f"Bearer {token}"} if token else {})
        answer = connection.getresponse()
        challenge = answer.headers.get("www-authenticate", "")
        assert not challenge or (challenge.startswith('Bearer realm="pdserver"') and answer.status in (401, 403))
        assert token is None or token.encode() not in answer.read()
        return answer.status if challenge or answer.status == 429 else 200
    finally:
        connection.close()


def is_answered_with(status: int, url: str, source: str) -> bool:
    return status_of(url, "GET", "/nowhere", WRONG, source) == status


def needs(port: str, method: str, path: str) -> frozenset[Scope]:
    from tests.security.surface import rules

    is_prediction = port == "inference" and (port, method, path) in PREDICTIONS
    return INFERENCE.scopes if is_prediction else rules(port).need(method.encode(), path.encode()).scopes


@pytest.mark.parametrize(("port", "method", "path"), routes())
def test_every_route_needs_its_scope(
    server: RunningServer, tokens: dict[str, str], port: str, method: str, path: str
) -> None:
    def ends_with(status: int, token: str | None) -> bool:
        """Not while there were too many failures in this second."""
        found = status_of(getattr(server, port), method, path, token)
        assert found in (status, 429)
        return found == status

    if (path in UNGUARDED or (method, path) in ALIVE) and port == "inference":
        assert ends_with(200, None)
        return
    allowed = needs(port, method, path)
    assert allowed, "a route that needs no token must be among UNGUARDED"
    eventually(partial(ends_with, 401, None))
    eventually(partial(ends_with, 401, WRONG))
    for scope in Scope:
        if scope not in allowed:
            eventually(partial(ends_with, 403, tokens[scope.value]))
    if path != "/token" and method not in ("DELETE", "PUT"):  # which would change what the next ones ask for
        assert ends_with(200, tokens[next(scope for scope in Scope if scope in allowed).value])


def test_the_ports_that_the_open_inference_protocol_has_to_itself(
    server: RunningServer, tokens: dict[str, str]
) -> None:
    url, load = server.settings["oip_address"], "/v2/repository/models/chaos/load"
    assert status_of(url, "GET", "/v2/health/ready", None) == 200
    assert status_of(url, "GET", "/v2", tokens["inference"]) == 200
    for method, path, token, status in (
        ("GET", "/v2", None, 401),
        ("POST", load, tokens["inference"], 403),
        ("POST", load.replace("repository", "%72epository"), tokens["inference"], 403),
        ("POST", "/v2/logging", tokens["inference"], 403),
        ("POST", "/v2/logging#x", tokens["inference"], 403),
    ):
        eventually(partial(comes_to, status, url, method, path, token))
    with grpc.insecure_channel(server.settings["oip_grpc_address"].removeprefix("http://")) as channel:
        service = "/inference.GRPCInferenceService"
        assert code(channel, f"{service}/ServerLive", None) == 200
        eventually(lambda: code(channel, f"{service}/ServerMetadata", None) == 401)
        eventually(lambda: code(channel, f"{service}/RepositoryModelLoad", tokens["inference"]) == 403)


def test_the_ports_that_tensorflow_servings_protocol_has_to_itself(
    server: RunningServer, tokens: dict[str, str]
) -> None:
    url, inference = server.settings["tensorflow_address"], {"Authorization": f"Bearer {tokens['inference']}"}
    for method, path in (
        ("GET", "/v1/models"), ("GET", "/V1/Models/chaos"), ("GET", "/v1/models/chaos/metadata"),
        ("POST", "/v1/models/chaos:predict"), ("POST", "/V1/MODELS/chaos:Predict"), ("GET", "/v1/nowhere"),
        ("GET", "/"),
    ):  # fmt: skip
        eventually(partial(comes_to, 401, url, method, path, None))
        assert comes_to(200, url, method, path, tokens["inference"])
    assert requests.get(f"{url}/v1/models/chaos", headers=inference, timeout=60).json()["ready"]
    assert requests.get(f"{url}/v2", headers=inference, timeout=60).status_code == 404, "it has nothing else"
    with grpc.insecure_channel(server.settings["tensorflow_grpc_address"].removeprefix("http://")) as channel:
        service = "/tensorflow.serving.ModelService"
        eventually(lambda: code(channel, f"{service}/GetModelStatus", None) == 401)
        assert code(channel, f"{service}/GetModelStatus", tokens["inference"]) == 200
        eventually(lambda: code(channel, f"{service}/HandleReloadConfigRequest", tokens["inference"]) == 403)


GENERAL = "baidu.paddle_serving.predictor.general_model.GeneralModelService/inference"


@pytest.mark.parametrize("port", ["inference_address", "paddle_serving_address"])
def test_a_port_of_three_protocols_needs_the_same_token_in_each(
    server: RunningServer, tokens: dict[str, str], port: str
) -> None:
    url, token = server.settings[port], tokens["inference"]
    eventually(partial(comes_to, 401, url, "POST", "/GeneralModelService/inference", None))
    assert comes_to(200, url, "POST", "/GeneralModelService/inference", token)
    with grpc.insecure_channel(url.removeprefix("http://")) as channel:
        eventually(lambda: code(channel, f"/{GENERAL}", None) == 401)
        assert code(channel, f"/{GENERAL}", token) == 200
    with Prpc(url) as client:
        assert "RpcMeta.authentication_data" in eventually(lambda: refused_over_prpc(client, GENERAL))
        assert eventually(lambda: refused_over_prpc(client, GENERAL, authentication_data=WRONG.encode()))
        assert client.call(GENERAL, authentication_data=token.encode()).errno != Errno.ERPCAUTH
        assert client.call(GENERAL).errno != Errno.ERPCAUTH, "the connection has shown it"


def test_a_call_of_brpc_needs_the_scope_of_its_method(server: RunningServer, tokens: dict[str, str]) -> None:
    service = "inference.GRPCInferenceService"
    with Prpc(server.inference) as client:
        assert client.call(f"{service}/ServerLive").errno == 0
        shown = {"authentication_data": tokens["inference"].encode()}
        assert eventually(lambda: refused_over_prpc(client, f"{service}/RepositoryIndex", **shown))
        for token in (tokens["admin"], f"Bearer {tokens['admin']}"):
            answer = client.call(f"{service}/RepositoryIndex", user_fields={"authorization": token})
            assert answer.errno == 0, answer.text


def refused_over_prpc(client: Prpc, method: str, **shown: Any) -> str:
    """What is said, unless there were too many failures in this second."""
    answer = client.call(method, **shown)
    assert answer.errno in (Errno.ERPCAUTH, Errno.ELIMIT), answer
    return answer.text if answer.errno == Errno.ERPCAUTH else ""


def comes_to(status: int, url: str, method: str, path: str, token: str | None) -> bool:
    return status_of(url, method, path, token) == status


def grpc_methods() -> list[tuple[str, str, Need]]:
    from tests.security.surface import rpc_methods

    return [found for found in rpc_methods() if found[0] != "oip_grpc"]


@pytest.mark.parametrize(("port", "method", "need"), grpc_methods())
def test_every_rpc_needs_its_scope(
    server: RunningServer, tokens: dict[str, str], port: str, method: str, need: Need
) -> None:
    allowed = need.scopes
    with grpc.insecure_channel(getattr(server, port)) as channel:
        if not allowed:
            assert re.search(r"/(Ping|Check|Watch|List|ServerLive|ServerReady)$", method)
            assert code(channel, method, None) not in (401, 403)
            return
        eventually(lambda: code(channel, method, None) == 401)
        eventually(lambda: code(channel, method, WRONG) == 401)
        for scope in Scope:
            if scope not in allowed:
                eventually(partial(ends_with, 403, channel, method, tokens[scope.value]))
        weakest = next(scope for scope in Scope if scope in allowed)
        assert code(channel, method, tokens[weakest.value]) not in (401, 403, 429)


_SYSTEM, _CUDA = "/v2/systemsharedmemory", "/v2/cudasharedmemory"
TWINS = {
    "org.pytorch.serve.grpc.inference.InferenceAPIsService": {
        "Ping": "/ping",
        "Predictions": "/predictions/m",
        "StreamPredictions": "/predictions/m",
        "StreamPredictions2": "/predictions/m",
    },
    "inference.GRPCInferenceService": {
        "ServerLive": "/v2/health/live",
        "ServerReady": "/v2/health/ready",
        "ModelReady": "/v2/models/m/ready",
        "ServerMetadata": "/v2",
        "ModelMetadata": "/v2/models/m",
        "ModelConfig": "/v2/models/m/config",
        "ModelStatistics": "/v2/models/m/stats",
        "ModelInfer": "/v2/models/m/infer",
        "ModelStreamInfer": "/v2/models/m/infer",
        "RepositoryIndex": "/v2/repository/index",
        "RepositoryModelLoad": "/v2/repository/models/m/load",
        "RepositoryModelUnload": "/v2/repository/models/m/unload",
        "SystemSharedMemoryStatus": f"{_SYSTEM}/status",
        "SystemSharedMemoryRegister": f"{_SYSTEM}/region/r/register",
        "SystemSharedMemoryUnregister": f"{_SYSTEM}/unregister",
        "CudaSharedMemoryStatus": f"{_CUDA}/status",
        "CudaSharedMemoryRegister": f"{_CUDA}/region/r/register",
        "CudaSharedMemoryUnregister": f"{_CUDA}/unregister",
        "TraceSetting": "/v2/trace/setting",
        "LogSettings": "/v2/logging",
    },
    "baidu.paddle_serving.predictor.general_model.GeneralModelService": {
        "inference": "/v2/models/m/infer",
        "debug": "/v2/models/m/infer",
    },
    "baidu.paddle_serving.pipeline_serving.PipelineService": {"inference": "/v2/models/m/infer"},
    "tensorflow.serving.PredictionService": {
        **dict.fromkeys(("Predict", "Classify", "Regress", "MultiInference"), "/v2/models/m/infer"),
        "GetModelMetadata": "/v1/models/m/metadata",
    },
    "tensorflow.serving.ModelService": {
        "GetModelStatus": "/v1/models/m",
        "HandleReloadConfigRequest": "/v2/repository/models/m/load",
    },
    "grpc.health.v1.Health": {"Check": "/v2/health/ready", "Watch": "/v2/health/ready", "List": "/api-description"},
    "grpc.reflection.v1.ServerReflection": {"ServerReflectionInfo": "/api-description"},
    "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": "/api-description"},
    "org.pytorch.serve.grpc.management.ManagementAPIsService": {
        "DescribeModel": "/models/m",
        "ListModels": "/models",
        "RegisterModel": "/models",
        "ScaleWorker": "/models/m",
        "SetDefault": "/models/m/1.0/set-default",
        "UnregisterModel": "/models/m",
    },
}
"""What each RPC does, as a path of REST."""


@pytest.mark.parametrize(("port", "method", "need"), grpc_methods())
def test_an_rpc_needs_the_same_scope_as_its_twin_over_rest(port: str, method: str, need: Need) -> None:
    from tests.security.surface import http_routes, rpc_methods

    _, service, name = method.split("/")
    twin = TWINS[service][name]
    twins_port = "inference" if twin.startswith("/v2") else port.removeprefix("grpc_")
    routes = [route for where, route in http_routes() if where == twins_port and route.path_regex.match(twin)]
    assert {route.need.of("") for route in routes} == {need.of("")}
    if service == "inference.GRPCInferenceService":
        assert {route.need for route in routes} == {need}, "and is restricted as the same API"
        assert ("oip_grpc", method, need) in rpc_methods()


_AS_HTTP = {
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
}


def ends_with(expected: int, channel: grpc.Channel, method: str, token: str) -> bool:
    return code(channel, method, token) == expected


def code(channel: grpc.Channel, method: str, token: str | None) -> int:
    """As what HTTP would say; 200 for anything that is no refusal."""
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    call: Any = channel.stream_stream(method)
    call = call(iter([b""]), metadata=metadata, timeout=60)
    try:
        next(call, None)
    except grpc.RpcError as error:
        failed: Any = error
        return _AS_HTTP.get(failed.code(), 200)
    finally:
        call.cancel()
    return 200


# One call


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("x=1?y?token=hidden&x=1", "x=1?y?token=***&x=1"),
        ("url=http://me:hidden@h/a.pdar&x=1", "url=http://***@h/a.pdar&x=1"),
        ("url=http%3A%2F%2Fme%3Ahidden%40h%2Fa.pdar&x=1", "url=http%3A%2F%2F***%40h%2Fa.pdar&x=1"),
        ("url=https://h/a?X-Amz-Signature=hidden&x=1", "url=https://h/a?X-Amz-Signature=***&x=1"),
        ("url=https%3A%2F%2Fh%2Fa%3Fsig%3Dhidden%26y%3D1&x=1", "url=https%3A%2F%2Fh%2Fa%3F***&x=1"),
        (f"x={'1' * 470}&url=http://me:hidden{'h' * 100}@h/a.pdar", f"x={'1' * 470}&url=http://***..."),
        ("text=who%3F@b&sigma=2", "text=who%3F@b&sigma=2"),
    ],
)
def test_the_access_log_hides_what_urls_in_queries_hold(server: RunningServer, sent: str, shown: str) -> None:
    request = f"GET /ping?{sent} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert len(talk(server.inference, request.encode())) == 1
    eventually(lambda: f"/ping?{shown} " in access_log(server))
    assert "hidden" not in access_log(server)


def test_a_token_lets_in_and_reaches_neither_model_nor_log(server: RunningServer, tokens: dict[str, str]) -> None:
    def seen(name: str) -> requests.Response:
        return requests.post(
            f"{server.inference}/predictions/chaos?token={tokens['inference']}&x=1",
            json={"op": "header", "name": name},
            headers={"Authorization": f"bearer {tokens['inference']}", "X-Other": "here"},
            timeout=60,
        )

    assert seen("x-other").text == "here"
    assert seen("authorization").status_code == 200
    assert tokens["inference"] not in seen("authorization").text
    eventually(lambda: "/predictions/chaos?token=***&x=1" in access_log(server))
    for text in (server.log(), access_log(server)):
        assert not any(token in text for token in tokens.values())


def test_requests_with_a_token_have_their_own_id_and_trace(server: RunningServer, tokens: dict[str, str]) -> None:
    for number in "123":
        own = {"traceparent": f"00-{number * 32}-{number * 16}-01", "X-Request-Id": number * 8}
        for name, shown in (("traceparent", own["traceparent"]), ("x-request-id", number * 8), ("authorization", "")):
            answer = requests.post(
                f"{server.inference}/predictions/chaos",
                json={"op": "header", "name": name},
                headers={"Authorization": f"Bearer {tokens['inference']}", **own},
                timeout=60,
            )
            assert (answer.status_code, answer.headers["x-request-id"]) == (200, number * 8)
            assert shown in answer.text
            assert tokens["inference"] not in answer.text


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer ", "Basic {token}", "{token}", "Bearer {token}x", "Bearer x{token}",
                      "Bearer {token} x", "Bearer " + "x" * 8000, "Bearer \xe9", "Bearer,{token}"]
)  # fmt: skip
def test_what_is_no_token(server: RunningServer, tokens: dict[str, str], authorization: str) -> None:
    value = authorization.replace("{token}", tokens["inference"]).encode("latin-1")
    request = b"POST /predictions/chaos HTTP/1.1\r\nhost: localhost\r\nauthorization: " + value + b"\r\n\r\n"

    def is_refused() -> bool:
        [answer] = talk(server.inference, request)
        assert answer.status in (401, 429)
        return answer.status == 401

    eventually(is_refused)


def test_health_says_no_more_than_whether_all_is_well(server: RunningServer) -> None:
    assert requests.get(f"{server.inference}/ping", timeout=60).json() == {"status": "Healthy"}


def test_who_fails_again_and_again_is_slowed_down_and_others_are_not(
    server: RunningServer, tokens: dict[str, str]
) -> None:
    for status in (429, 401, 429):
        eventually(partial(is_answered_with, status, server.inference, "127.0.0.1"))
    assert ask(server.inference, "GET", "/predictions/chaos", tokens["inference"]).status_code == 200


# Changing them


@pytest.fixture
def file(server: RunningServer, tokens: dict[str, str]) -> Iterator[Path]:
    """The file with the tokens, which are the same again after the test."""
    path = Path(server.settings["token_file"])
    before = path.read_text()
    yield path
    path.write_text(before)
    eventually(lambda: ask(server.inference, "GET", "/predictions/chaos", tokens["inference"]).status_code == 200)


def test_a_new_token_and_the_one_before(server: RunningServer, file: Path) -> None:
    before = json.loads(file.read_text())
    asked = ask(server.management, "GET", "/token?type=inference", before["admin"]["key"])
    new = asked.json()["key"]
    assert new != before["inference"]["key"]
    for token in (new, before["inference"]["key"]):
        assert ask(server.inference, "GET", "/predictions/chaos", token).status_code == 200
    written = json.loads(file.read_text())
    assert written["inference"]["key"] == new
    assert written["inference"]["previous"][0]["key"] == before["inference"]["key"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    bad = ask(server.management, "GET", "/token?type=all", before["admin"]["key"])
    assert (bad.status_code, "expected inference, management or admin" in bad.text) == (400, True)
    # By hand: one more that is good, one that is not any more; then a mistake, which changes nothing.
    mine = "m" * 40
    file.write_text(json.dumps({"inference": {"key": mine}, "management": before["management"]}))
    eventually(lambda: ask(server.inference, "GET", "/predictions/chaos", mine).status_code == 200)
    eventually(lambda: ask(server.inference, "GET", "/predictions/chaos", new).status_code in (401, 429))
    assert ask(server.management, "GET", "/models", before["management"]["key"]).status_code == 200
    file.write_text("{")
    server.logged("the tokens that there were stay in force")
    assert ask(server.inference, "GET", "/predictions/chaos", mine).status_code == 200
    file.write_text(json.dumps({"inference": {"key": mine, "expiration time": "2020-01-01T00:00:00Z"}}))
    eventually(lambda: ask(server.inference, "GET", "/predictions/chaos", mine).status_code in (401, 429))


# From the environment, and headers that count as tokens


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with tokens in its environment, and an API that a header opens."""
    folder = tmp_path_factory.mktemp("told")
    store = folder / "store"
    store.mkdir()
    pack_handler(store, "chaos")
    given = {"PD_INFERENCE_TOKEN": "i" * 32 + "," + "j" * 32, "PD_ADMIN_TOKEN": "a" * 32}
    settings = {"http_restricted_api": "inference:infer-key=infer-value", "disable_system_metrics": "true"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.running.clean_environment", lambda: clean_environment() | given)
        with RunningServer(folder / "server", store, settings=settings) as server:
            yield server


def test_the_environments_tokens(told: RunningServer) -> None:
    for token in ("i" * 32, "j" * 32, "a" * 32):
        assert ask(told.inference, "GET", "/predictions/chaos", token).status_code == 200
    told.logged("there is no token for management")
    assert ask(told.metrics, "GET", "/metrics", None).status_code == 200
    renewed = ask(told.management, "GET", "/token?type=inference", "a" * 32)
    assert (renewed.status_code, "given in the environment" in renewed.text) == (409, True)


def test_the_header_of_a_restricted_api_counts_as_a_token_and_a_token_is_as_good(told: RunningServer) -> None:
    def status(method: str, path: str, **headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return requests.request(method, told.inference + path, headers=named, timeout=60).status_code

    infer = partial(status, "POST", "/predictions/chaos")
    assert infer(infer_key="infer-value") == 200
    assert infer(authorization="Bearer " + "i" * 32) == 200
    assert infer() == 403
    assert infer(authorization="Bearer no") == 401
    assert status("GET", "/v2/models/stats", infer_key="infer-value") == 401, "it is no token for other calls"
