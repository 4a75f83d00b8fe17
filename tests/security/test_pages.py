"""What web pages of other sites can have done: predictions, and nothing that changes anything, on any port."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from starlette.routing import Route as PlainRoute

from pdserver.configuration.tokens import Scope
from pdserver.security.access import ADMIN, ANY, INFERENCE, MANAGEMENT, OPEN, Need, undeclared
from pdserver.security.origins import Cors, Origins
from pdserver.security.refused import Refused
from pdserver.security.routes import Route, Rules
from tests.conftest import pack_handler
from tests.running import RunningServer, free_ports
from tests.security.raw import place, talk
from tests.security.surface import http_routes, rpc_methods, rules

EVIL = "http://evil.com"
PORTS = ("inference", "oip", "management", "metrics")
READ = """
    GET /, GET /ping, POST /ping, OPTIONS /, GET /api-description, OPTIONS /api-description,
    GET /openapi.json,
    GET /v1/models, GET /v1/models/{name}, GET /v1/models/{name}/metadata,
    GET /v1/models/{name}/versions/{version}, GET /v1/models/{name}/versions/{version}/metadata,
    GET /v1/models/{name}/labels/{label}, GET /v1/models/{name}/labels/{label}/metadata,
    OPTIONS /predictions/{name}, OPTIONS /predictions/{name}/{version}, OPTIONS /wfpredict/{name},
    GET /v2, GET /v2/health/live, GET /v2/health/ready, GET /v2/models, GET /v2/models/stats,
    GET /v2/models/{name}, GET /v2/models/{name}/ready, GET /v2/models/{name}/config, GET /v2/models/{name}/stats,
    GET /v2/models/{name}/versions/{version}, GET /v2/models/{name}/versions/{version}/ready,
    GET /v2/models/{name}/versions/{version}/config, GET /v2/models/{name}/versions/{version}/stats,
    POST /v2/models/{name}/infer, POST /v2/models/{name}/versions/{version}/infer,
    POST /v2/models/{name}/explain, POST /v2/models/{name}/versions/{version}/explain,
    POST /v2/models/{name}/generate, POST /v2/models/{name}/versions/{version}/generate,
    POST /v2/models/{name}/generate_stream, POST /v2/models/{name}/versions/{version}/generate_stream,
    GET /v2/systemsharedmemory/status, GET /v2/systemsharedmemory/region/{region}/status,
    GET /v2/cudasharedmemory/status, GET /v2/cudasharedmemory/region/{region}/status,
    GET /health, GET /status, GET /vars, GET /brpc_metrics,
    GET /metrics
"""
"""All that changes nothing. Whoever adds a route must say that it does, or add it here."""
READ_RPCS = """
    Check List Watch ServerReflectionInfo Ping Predictions StreamPredictions StreamPredictions2
    ModelInfer ModelStreamInfer ServerLive ServerReady ModelReady ServerMetadata ModelMetadata ModelConfig
    ModelStatistics SystemSharedMemoryStatus CudaSharedMemoryStatus
    inference debug
    Predict Classify Regress MultiInference GetModelMetadata GetModelStatus
"""


class Server(RunningServer):
    """With everything that pages could want."""

    oip: str
    oip_grpc: str


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("pages")
    store = folder / "store"
    store.mkdir()
    pack_handler(store, "chaos")
    oip, oip_grpc = (f"http://127.0.0.1:{port}" for port in free_ports(2))
    settings = {
        "oip_address": oip,
        "oip_grpc_address": oip_grpc,
        "model_control_mode": "explicit",
        "allow_client_shm": "true",
        "disable_system_metrics": "true",
    }
    server = Server(folder / "server", store, "all", settings)
    server.oip, server.oip_grpc = oip, oip_grpc.removeprefix("http://")
    with server:
        yield server


# Every route


def routes() -> list[tuple[str, str, str]]:
    """(port, method, path as it is declared) of every call that the HTTP ports answer."""
    return [(port, method, route.path) for port, route in http_routes() for method in sorted(route.methods or ())]


def need(port: str, method: str, path: str) -> Need:
    return rules(port).need(method.encode(), filled(path).encode())


def filled(path: str) -> str:
    return re.sub(r"\{\w+(:\w+)?\}", "chaos", path)


GUARDED = [call for call in routes() if need(*call).guarded]


def status(url: str, method: str, path: str, headers: Mapping[str, str]) -> int:
    connection = http.client.HTTPConnection(*place(url), timeout=60)
    try:
        connection.request(method, path, headers=dict(headers))
        return connection.getresponse().status
    finally:
        connection.close()


def test_what_is_not_guarded_only_reads() -> None:
    reads = {tuple(call.split()) for call in READ.replace("\n", " ").split(", ")}
    reads |= {("HEAD", path) for method, path in reads if method == "GET"}
    assert {(method, path) for port, method, path in routes() if not need(port, method, path).guarded} == reads


def test_what_has_to_be_guarded_is_found() -> None:
    assert {"/models", "/token", "/v2/logging", "/v2/trace/setting", "/v2/repository/models/{name}/load"} <= {
        path for _, _, path in GUARDED
    }


@pytest.mark.parametrize(("port", "method", "path"), GUARDED)
def test_a_call_that_changes_something_is_refused_to_pages(server: Server, port: str, method: str, path: str) -> None:
    url, path = getattr(server, port), filled(path)
    for headers in (
        {"Origin": EVIL},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Origin": EVIL, "Content-Type": "application/json"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Referer": f"{EVIL}/page"},
    ):
        assert status(url, method, path, headers) == 403, headers
    for kind in ("text/plain", "Text/Plain;charset=UTF-8", "multipart/form-data; boundary=x"):
        assert status(url, method, path, {"Content-Type": kind}) == 415, kind
    assert status(url, method, path, {"Host": "evil.com"}) == 421
    if port in ("inference", "oip"):  # a page of this port is what some model has answered
        assert status(url, method, path, {"Origin": url}) == 403
        assert status(url, method, path, {"Sec-Fetch-Site": "same-origin"}) == 403


def test_nothing_has_come_of_it(server: Server) -> None:
    assert server.predict("chaos", json={"nonce": 1}).json()["nonce"] == 1
    assert requests.get(f"{server.inference}/v2/systemsharedmemory/status", timeout=60).json() == []


@pytest.mark.parametrize(
    "target",
    ["/v2/logging#", "/v2/logging#/ping", "/v2/logging?#", "/v2/log%67ing", "/v2/%6cogging?x=/ping"],
)
def test_another_spelling_is_guarded_as_well(server: Server, target: str) -> None:
    head = f"POST {target} HTTP/1.1\r\nhost: localhost\r\norigin: {EVIL}\r\ncontent-length: 2\r\n\r\n{{}}"
    [answer] = talk(server.inference, head.encode())
    assert answer.status == 403


# Every RPC


def test_rpcs_that_are_not_guarded_only_read() -> None:
    open_to_pages = {name.rpartition("/")[2] for port, name, need in rpc_methods() if not need.guarded}
    assert open_to_pages == set(READ_RPCS.split())


@pytest.mark.parametrize(("port", "name"), [(port, name) for port, name, need in rpc_methods() if need.guarded])
def test_an_rpc_that_changes_something_is_refused_to_pages(server: Server, port: str, name: str) -> None:
    with grpc.insecure_channel(getattr(server, port)) as channel:
        for metadata in (("origin", EVIL), ("origin", f"http://{getattr(server, port)}"), ("referer", f"{EVIL}/")):
            call: Any = channel.unary_unary(name)
            with pytest.raises(grpc.RpcError) as caught:
                call(b"", metadata=(metadata,), timeout=60)
            failed: Any = caught.value
            assert failed.code() == grpc.StatusCode.PERMISSION_DENIED
            assert "cors_allowed_origin" in failed.details()


# The documentation's table


def told() -> set[tuple[str, str, str, str]]:
    """(port, call, token, whether pages may) of every call in the table; of an RPC, the service's last name."""
    page = (Path(__file__).parent.parent.parent / "docs" / "security.md").read_text()
    section = page.partition("## Who may call what\n")[2].partition("\n## ")[0]
    found = set()
    for port, calls, token, pages in re.findall(r"^\| (\w+) \| (`.*`) \| (.*) \| (.*) \|$", section, re.MULTILINE):
        for call in re.findall(r"`([^`]+)`", calls):
            *methods, path = call.split()
            for spelled in {re.sub(r"\[.*?\]", "", path), path.replace("[", "").replace("]", "")}:
                found |= {(port, " ".join([*one, spelled]), token, pages) for one in ([m] for m in methods or [""])}
    return {(port, call.strip(), token, pages) for port, call, token, pages in found}


def described(port: str, call: str, need: Need) -> tuple[str, str, str, str]:
    tokens = {
        frozenset[Scope](): "none",
        INFERENCE.scopes: "inference",
        MANAGEMENT.scopes: "management",
        ADMIN.scopes: "admin",
        ANY.scopes: "any, or none",
    }
    return port, call, tokens[need.scopes], "no" if need.guarded else "yes"


def test_the_documentation_has_every_call_and_what_it_needs() -> None:
    calls = {
        described(port, f"{method} {path}", need(port, method, path))
        for port, method, path in routes()
        if port not in ("oip", "tensorflow") and method != "HEAD"
    }
    calls |= {
        described(port, name.rpartition(".")[2], need) for port, name, need in rpc_methods() if port != "oip_grpc"
    }
    assert told() == calls


# What pages may do, and clients that are none


def test_pages_may_ask_for_predictions_but_not_by_shared_memory(server: Server) -> None:
    headers = {"Origin": EVIL, "Content-Type": "text/plain"}
    assert server.predict("chaos", data=b'{"nonce": 2}', headers=headers).ok
    placed = {"shared_memory_region": "r", "shared_memory_byte_size": 4}
    body = {
        "inputs": [{"name": "body", "shape": [1, 1], "datatype": "BYTES", "data": ["{}"]}],
        "outputs": [{"name": "answer", "parameters": placed}],
    }
    refused = requests.post(f"{server.inference}/v2/models/chaos/infer", json=body, headers=headers, timeout=60)
    assert (refused.status_code, "web page" in refused.json()["error"]) == (403, True), refused.text


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "application/x-www-form-urlencoded"}])
def test_what_is_no_page_needs_no_more_than_before(server: Server, headers: dict[str, str]) -> None:
    """curl says the second of a body that it was not told to be anything else."""
    for path in ("/v2/logging", "/v2/trace/setting"):
        answer = requests.post(f"{server.inference}{path}", data=b"{}", headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text


def test_nobody_is_let_into_a_private_network(server: Server) -> None:
    asked = {"Origin": EVIL, "Access-Control-Request-Method": "POST", "Access-Control-Request-Private-Network": "true"}
    for port in PORTS:
        answer = requests.options(f"{getattr(server, port)}/models", headers=asked, timeout=60)
        assert not any(name.lower().startswith("access-control") for name in answer.headers)


# Routes that nobody has declared


async def _endpoint(_: object) -> None: ...


def test_a_plugins_route_is_guarded_unless_it_says_what_it_needs() -> None:
    plain, own = PlainRoute("/plain", _endpoint, methods=["POST"]), Route("/own", _endpoint, INFERENCE, ["POST"])
    of_inference = Rules([plain, own], undeclared("inference"))
    assert of_inference.need(b"POST", b"/plain") == Need(INFERENCE.scopes, guarded=True)
    assert of_inference.need(b"POST", b"/own") == INFERENCE
    assert of_inference.need(b"PUT", b"/own") == Need(INFERENCE.scopes, guarded=True)
    assert Rules([plain], undeclared("metrics")).need(b"POST", b"/plain").guarded


def test_the_first_route_decides_as_it_does_in_the_router() -> None:
    routes = [Route("/{name}", _endpoint, MANAGEMENT), Route("/ping", _endpoint, OPEN)]
    assert Rules(routes, undeclared("inference")).need(b"GET", b"/ping") == MANAGEMENT


def test_what_is_open_is_so_in_one_spelling_alone() -> None:
    ping = Rules([Route("/ping", _endpoint, OPEN)], undeclared("inference"))
    assert ping.need(b"GET", b"/ping?x=%70") == OPEN
    assert ping.need(b"GET", b"/%70ing").scopes == INFERENCE.scopes


# Which page is whose


@pytest.mark.parametrize(
    ("cors", "tokens", "headers", "allowed"),
    [
        ("https://app.example.com", False, {b"origin": b"https://app.example.com"}, True),
        ("https://app.example.com", False, {b"origin": b"https://app.example.com.evil.com"}, False),
        ("https://app.example.com", False, {b"referer": b"https://app.example.com/a/b?c"}, True),
        ("https://app.example.com", False, {b"referer": b"https://app.example.com.evil.com/"}, False),
        ("*", False, {b"origin": b"http://evil.com"}, False),
        ("*", True, {b"origin": b"http://evil.com"}, True),
        ("", False, {b"sec-fetch-site": b"none"}, True),
        ("", False, {b"sec-fetch-site": b"none", b"referer": b"http://evil.com/"}, True),
        ("", False, {}, True),
    ],
)
def test_pages(cors: str, tokens: bool, headers: dict[bytes, bytes], allowed: bool) -> None:
    origins = Origins(Cors(cors), tokens=tokens, own_pages=False)
    if allowed:
        origins.check([*headers.items()], b"http://localhost")
    else:
        with pytest.raises(Refused):
            origins.check([*headers.items()], b"http://localhost")
