"""The client of the server's own package: arrays in, arrays out, over REST and gRPC, blocking and awaited."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16

from pdserver import client as errors
from pdserver.client import AsyncClient, Client, ClientError
from pdserver.client.grpc import AsyncGrpcClient, GrpcClient
from tests.conftest import Lent, fit_file, pack_handler
from tests.running import RunningServer, free_ports
from tests.security.certificates import authority, signed

KINDS = ("rest", "async rest", "grpc", "async grpc")


class Awaited:
    """An asynchronous client, used as if it were not: each call runs in the event loop that the client is made in."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._loop = asyncio.new_event_loop()

        async def made() -> Any:
            return make()

        self._client = self._loop.run_until_complete(made())

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *args, **how: self._loop.run_until_complete(method(*args, **how))

    def end(self) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


@contextmanager
def connected(kind: str, server: RunningServer, **how: Any) -> Iterator[Any]:
    if "grpc" in kind:
        given: dict[str, Any] = {"address": server.grpc_inference, "management": server.grpc_management, **how}
    else:
        given = {"url": server.inference, "management": server.management, **how}
    make = {"rest": Client, "async rest": AsyncClient, "grpc": GrpcClient, "async grpc": AsyncGrpcClient}[kind]
    if kind.startswith("async"):
        client = Awaited(lambda: make(**given))
        try:
            yield client
        finally:
            client.end()
    else:
        with make(**given) as blocking:
            yield blocking


@pytest.fixture(scope="module")
def server(servant: Lent, fit_model: Path) -> Iterator[RunningServer]:
    servant("base_handler", "fit", "batchSize: 8\n", serialized_file=fit_file(fit_model))
    for name in ("chaos", "echo"):
        servant(name, version="1")
    pack_handler(servant.store, "mirror", version="1")
    yield servant.server
    servant.clear()


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, server: RunningServer) -> Iterator[Any]:
    with connected(request.param, server) as client:
        yield client


# Inference


def test_arrays_in_arrays_out(client: Any, fit_model: Path) -> None:
    weights = np.load(fit_model / "weights.npz")
    rows = np.random.default_rng(1).normal(size=(3, 13)).astype(np.float32)
    [port] = client.metadata("fit").outputs
    for how in ({}, {"version": "1.0", "outputs": [port.name], "parameters": {"a": 1}, "request_id": "x"}):
        answer = client.infer("fit", {"x": rows}, **how)
        assert answer.keys() == {port.name}
        np.testing.assert_allclose(answer[port.name], rows @ weights["w"] + weights["b"], rtol=1e-5)
    np.testing.assert_array_equal(
        client.infer("fit", {"x": rows.tolist()} | {"x": rows[::-1]})[port.name], answer[port.name][::-1]
    )


EVERYTHING = {
    **{
        f"{kind}{bits}": np.array([[0, 1, 100]], f"{kind}{bits}")
        for kind in ("int", "uint")
        for bits in (8, 16, 32, 64)
    },
    "fp16": np.array([[0.1, 2]], np.float16),
    "fp32": np.array([[0.1, 2]], np.float32),
    "fp64": np.array([[0.1, 2]], np.float64),
    "bool": np.array([[True, False]]),
    "bytes": np.array([["größe", "", "b"]]),
}


def test_every_dtype(client: Any) -> None:
    answer = client.infer("echo", {**EVERYTHING, "bf16": np.array([[1.5, -2]], bfloat16)})
    for name, array in EVERYTHING.items():
        if name == "bytes":
            assert answer[name].tolist() == [["größe".encode(), b"", b"b"]]
        else:
            assert answer[name].dtype == array.dtype
            np.testing.assert_array_equal(answer[name], array)
    assert (answer["bf16"].dtype, answer["bf16"].tolist()) == (np.float32, [[1.5, -2]])


def test_large_arrays_and_empty_ones(client: Any) -> None:
    large = np.random.default_rng(2).normal(size=(1, 2_500_000)).astype(np.float32)
    inputs = {**EVERYTHING, "bf16": np.zeros((1, 0), bfloat16), "bytes": np.zeros((1, 0), object), "fp32": large}
    answer = client.infer("echo", inputs)
    assert answer["fp32"].tobytes() == large.tobytes()
    assert answer["bf16"].shape == answer["bytes"].shape == (1, 0)


def test_opaque_handlers(client: Any) -> None:
    """Over gRPC, an answer is bytes whatever it is."""

    def ask(asked: object, **how: Any) -> Any:
        return client.predict("chaos", asked, **how)

    answer = ask({"nonce": np.float32(1.5)})
    assert (json.loads(answer) if isinstance(answer, bytes) else answer)["nonce"] == 1.5
    assert ask({"op": "raw"}) == b"\x00\x01"
    assert ask({"op": "text"}) in ("grüße", "grüße".encode())
    assert ask({"op": "header", "name": "x-mine"}, headers={"X-Mine": "yes"}) in ("yes", b"yes")


def test_what_cannot_be_a_tensor_is_not_sent(client: Any) -> None:
    for value, words in ((np.array([1j]), "complex128"), (np.array([None]), "None among its elements")):
        with pytest.raises(errors.InvalidInput, match=words):
            client.infer("fit", {"x": value})


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([1, 2], "inputs: expected arrays by the names of the model's inputs, not list"),
        (np.ones((1, 13), np.float32), "not ndarray"),
        ({"x": [[1, 2], [3]]}, "input x: expected an array, or lists that make one: .*inhomogeneous"),
        ({"x": ["\ud800"]}, "input x: .*surrogates"),
    ],
)
def test_inputs_that_are_not_arrays_by_name_are_not_sent(client: Any, inputs: Any, words: str) -> None:
    with pytest.raises(errors.InvalidInput, match=words):
        client.infer("fit", inputs)


def test_data_that_cannot_be_json_are_not_sent(client: Any) -> None:
    for data, words in (({"x": 1j}, "data: .*not JSON serializable"), ("\ud800", "data: .*surrogates")):
        with pytest.raises(errors.InvalidInput, match=words):
            client.predict("chaos", data)


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"X Mine": "yes"}, "headers: 'X Mine' is not a header's name"),
        ({"X-Mine": "größe"}, "headers: X-Mine is 'größe': expected ASCII"),
        ({"X-Mine": "yes\r\nX-Other: yes"}, "headers: X-Mine is .*line breaks"),
    ],
)
def test_headers_that_http_cannot_hold_are_not_sent(client: Any, headers: dict[str, str], words: str) -> None:
    with pytest.raises(errors.InvalidInput, match=words):
        client.predict("chaos", b"", headers=headers)


# What fails


def test_errors_have_a_type_and_the_servers_words(client: Any) -> None:
    row = np.ones((1, 13), np.float32)
    cases: list[tuple[Callable[[], object], type[ClientError], str]] = [
        (lambda: client.infer("fit", {"x": row[:, :5]}), errors.InvalidInput, "unexpected shape for input 'x'"),
        (lambda: client.infer("nobody", {"x": row}), ClientError, "'nobody' is not found"),
        (lambda: client.infer("fit", {"x": row}, version="9"), errors.NotFound, "version 9 is not found"),
        (lambda: client.predict("nobody", b""), errors.NotFound, "nobody"),
        (lambda: client.predict("chaos", {"op": "fail"}), errors.ServerFailed, "own fault"),
        (lambda: client.predict("chaos", {"op": "sleep", "seconds": 0.3}, timeout_seconds=0.05), errors.TimedOut, "."),
        (lambda: client.unregister("nobody"), errors.NotFound, "nobody"),
        (lambda: client.register("nobody.pdar"), ClientError, "nobody"),
        (lambda: client.register("chaos.pdar"), errors.Conflict, "already"),
    ]
    for call, kind, words in cases:
        with pytest.raises(kind, match=words) as raised:
            call()
        assert raised.value.status or raised.value.code or kind is errors.TimedOut


@pytest.mark.parametrize("kind", KINDS)
def test_where_nobody_listens(kind: str, server: RunningServer) -> None:
    nowhere = f"127.0.0.1:{free_ports(1)[0]}"
    how = {"address": nowhere} if "grpc" in kind else {"url": f"http://{nowhere}"}
    with connected(kind, server, **how) as client, pytest.raises((errors.Unreachable, errors.Unavailable)) as raised:
        client.live()
    if "rest" in kind:
        reason = "All connection attempts failed" if "async" in kind else "Connection refused"
        told = f"no answer from http://{nowhere} ({reason}): check the address and that the server runs"
        assert str(raised.value) == told


@pytest.mark.parametrize("kind", ["rest", "async rest"])
def test_where_something_else_listens(kind: str) -> None:
    """The error is one sentence, without the numbers and names that libraries add."""
    with answering(lambda *_: (200, {}, {})) as url:
        secure = url.replace("http:", "https:")
        with pytest.raises(errors.Unreachable) as raised:
            ask_metadata(secure, kind)
    remedy = "check the address, the certificates in verify and cert, and that the server runs"
    assert re.fullmatch(rf"no answer from {secure} \([a-z ]+\): {remedy}", str(raised.value))


def test_management_needs_an_address(server: RunningServer) -> None:
    for kind in KINDS:
        with connected(kind, server, management="") as client, pytest.raises(ValueError, match="management="):
            client.models()


@pytest.mark.parametrize("url", ["", "localhost:8080", "http://", "http://[::1:8080", "ftp://localhost"])
def test_an_address_is_a_url(url: str) -> None:
    with pytest.raises(ValueError, match=r"url=.*: expected http://HOST:PORT or https://HOST:PORT"):
        Client(url)


@pytest.mark.parametrize("name", ["token", "management_token"])
@pytest.mark.parametrize("make", [Client, AsyncClient, GrpcClient])
def test_a_token_that_no_header_can_hold_is_not_repeated(name: str, make: Any) -> None:
    with pytest.raises(ValueError, match=r"^token: expected visible ASCII characters") as raised:
        make("http://localhost:8080", **{name: "secret\n"})
    assert "secret" not in str(raised.value)


# What the server says, and management


def test_health_and_metadata(client: Any) -> None:
    assert client.live()
    assert client.ready()
    assert client.ready("fit")
    assert not client.ready("nobody")
    assert client.server_metadata().name == "pdserver"
    assert "binary_tensor_data" in client.server_metadata().extensions
    metadata = client.metadata("fit")
    assert (metadata.name, metadata.versions) == ("fit", ["1.0"])
    assert [(port.name, port.datatype, port.shape) for port in metadata.inputs] == [("x", "FP32", [-1, 13])]


def test_management(client: Any) -> None:
    assert "registered" in client.register("mirror.pdar", initial_workers=1, batch_size=2)
    try:
        assert client.models()["mirror"] == "mirror.pdar"
        assert client.predict("mirror", b"abc") == b"cba"
        assert client.scale("mirror", 2) == "Workers scaled to 2 for model: mirror"
        assert client.set_default("mirror", "1") == 'Default version successfully updated for model "mirror" to "1"'
        [described] = client.describe("mirror")
        assert (described["batchSize"], described["minWorkers"]) == (2, 2)
    finally:
        assert client.unregister("mirror") == 'Model "mirror" unregistered'
    assert "mirror" not in client.models()


def test_all_models_are_listed_page_by_page() -> None:
    pages = {"/models?limit=100": {"models": [{"modelName": "a", "modelUrl": "a.pdar"}], "nextPageToken": "100"}}
    pages["/models?limit=100&next_page_token=100"] = {"models": [{"modelName": "b", "modelUrl": "b.pdar"}]}
    with answering(lambda path, _: (200, {}, pages[path])) as url, Client(url, management=url) as client:
        assert client.models() == {"a": "a.pdar", "b": "b.pdar"}


# Connections


@contextmanager
def answering(answer: Callable[[str, Any], tuple[int, dict[str, str], object]]) -> Iterator[str]:
    """The URL of a server that answers as told: path and headers → status, headers, JSON."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, headers, said = answer(self.path, self.headers)
            body = json.dumps(said).encode()
            self.send_response(status)
            for name, value in {
                **headers,
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def ask_metadata(url: str, kind: str, **how: Any) -> Any:
    if kind == "rest":
        with Client(url, **how) as client:
            return client.server_metadata()

    async def ask() -> Any:
        async with AsyncClient(url, **how) as client:
            return await client.server_metadata()

    return asyncio.run(ask())


@pytest.mark.parametrize("kind", ["rest", "async rest"])
def test_a_busy_server_is_asked_again_when_it_says_when_and_the_caller_wants_it(kind: str) -> None:
    asked: list[str] = []

    def busy_twice(path: str, _: Any) -> tuple[int, dict[str, str], object]:
        asked.append(path)
        if len(asked) % 3:
            return 503, {"Retry-After": "0"}, {"error": "busy"}
        return 200, {}, {"name": "n", "version": "1"}

    with answering(busy_twice) as url:
        assert ask_metadata(url, kind, retries=2).name == "n"
        assert len(asked) == 3
        for how in ({}, {"retries": 1}):
            asked.clear()
            with pytest.raises(errors.Unavailable, match="busy") as raised:
                ask_metadata(url, kind, **how)
            assert (len(asked), raised.value.retry_after_seconds) == (1 + len(how), 0)
    later = answering(lambda *_: (503, {"Retry-After": "3600"}, {"error": "busy"}))
    with later as url, pytest.raises(errors.Unavailable):  # at once: that is later than the timeout
        ask_metadata(url, kind, retries=5)


@pytest.mark.parametrize("kind", ["rest", "async rest"])
def test_a_redirect_is_told_and_not_followed(kind: str) -> None:
    there = "https://models.example:8443/v2"
    redirecting = answering(lambda *_: (308, {"Location": there}, {}))
    with redirecting as url, pytest.raises(errors.Unreachable, match=f"{url} redirects to {there}: give the client"):
        ask_metadata(url, kind)


@pytest.mark.parametrize("kind", ["rest", "async rest"])
def test_the_token_goes_along(kind: str) -> None:
    def check(_: str, headers: Any) -> tuple[int, dict[str, str], object]:
        if headers.get("Authorization") == "Bearer secret":
            return 200, {}, {"name": "n", "version": "1"}
        return 401, {}, {"code": 401, "type": "x", "message": "no token"}

    with answering(check) as url:
        assert ask_metadata(url, kind, token="secret").name == "n"
        with pytest.raises(errors.Denied, match="no token"):
            ask_metadata(url, kind)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """How to reach a server that speaks TLS, wants to see certificates, and lets nobody in without a token."""
    folder = tmp_path_factory.mktemp("guarded")
    store = folder / "store"
    store.mkdir()
    ca = authority(folder / "ca")
    own, theirs = signed(ca, folder, "server"), signed(ca, folder, "client", subject="client")
    inference, management = (f"https://127.0.0.1:{port}" for port in free_ports(2))
    settings = {
        "inference_address": inference,
        "management_address": management,
        "certificate_file": str(own.certificate),
        "private_key_file": str(own.key),
        "client_ca_file": str(ca.certificate),
        "enable_grpc_ssl": "true",
        "token_file": str(folder / "tokens.json"),
    }
    with RunningServer(folder / "server", store, "", settings) as server:
        tokens = json.loads((folder / "tokens.json").read_text())
        yield {
            "server": server,
            "rest": {"url": inference, "management": management},
            "grpc": {
                "address": f"grpcs://{server.grpc_inference}",
                "management": f"grpcs://{server.grpc_management}",
            },
            "tls": {"verify": str(ca.certificate), "cert": (str(theirs.certificate), str(theirs.key))},
            "tokens": {"token": tokens["inference"]["key"], "management_token": tokens["management"]["key"]},
        }


@pytest.mark.parametrize("kind", KINDS)
def test_tls_and_tokens_of_both_ports(kind: str, guarded: dict[str, Any]) -> None:
    addresses = guarded["grpc" if "grpc" in kind else "rest"]
    with connected(kind, guarded["server"], **addresses, **guarded["tls"], **guarded["tokens"]) as client:
        assert client.live()
        assert client.server_metadata().name == "pdserver"
        assert client.models() == {}
    wrong = connected(kind, guarded["server"], **addresses, **guarded["tls"], token="wrong-" * 8)
    with wrong as client, pytest.raises(errors.Denied):
        client.server_metadata()
    unknown = connected(kind, guarded["server"], **addresses, verify=guarded["tls"]["verify"], **guarded["tokens"])
    with unknown as client, pytest.raises((errors.Unreachable, errors.Unavailable)):
        client.live()  # who shows no certificate is not let in


@pytest.mark.parametrize("kind", ["rest", "async rest"])
def test_any_certificate_is_believed_if_the_caller_wants_it(kind: str, guarded: dict[str, Any]) -> None:
    how = {**guarded["rest"], **guarded["tokens"], "cert": guarded["tls"]["cert"]}
    told = r"\(certificate verify failed: .*\): check the address, the certificates in verify and cert,"
    with connected(kind, guarded["server"], **how) as client, pytest.raises(errors.Unreachable, match=told):
        client.live()
    with connected(kind, guarded["server"], **how, verify=False) as client:
        assert client.live()


def test_many_calls_at_once(server: RunningServer) -> None:
    async def ask(client: Any) -> list[Any]:
        async with client:
            bodies = [{"body": np.array([[b'{"nonce": %d}' % number]], object)} for number in range(100)]
            answers = await asyncio.gather(*(client.infer("chaos", body) for body in bodies))
            return [json.loads(answer["answer"][0, 0])["nonce"] for answer in answers]

    async def both() -> None:
        for client in (AsyncClient(server.inference), AsyncGrpcClient(server.grpc_inference)):
            assert await ask(client) == list(range(100))

    asyncio.run(both())
    with Client(server.inference) as rest, GrpcClient(server.grpc_inference) as grpc, ThreadPoolExecutor(8) as threads:
        lives = list(threads.map(lambda number: (rest, grpc)[number % 2].live(), range(100)))
    assert all(lives)


@pytest.mark.parametrize(("missing", "module"), [("httpx", "client"), ("grpc", "client.grpc")])
def test_without_its_extra_a_client_says_how_to_install_it(missing: str, module: str) -> None:
    code = f"import sys; sys.modules['{missing}'] = None; import pdserver.{module}"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr
    assert said.splitlines()[-1] == f"ImportError: pdserver.client needs {missing}: pip install 'pdserver[client]'"
    assert "direct cause" not in said
