"""A real HAProxy in front of real servers."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import msgspec
import numpy as np
import psutil
import pytest
import requests
import tritonclient.grpc
import tritonclient.http
import tritonclient.utils

from pdserver.cluster.base import EntranceView
from pdserver.cluster.entrance import HaproxyEntrance, Settings, settings
from pdserver.cluster.haproxy import Options
from pdserver.configuration.loading import load_config
from pdserver.configuration.values import Address
from pdserver.errors import ConfigError, Unavailable
from pdserver.peers.base import Addresses, Route
from pdserver.types import ModelRef
from tests.cluster.served import PLAIN, WIDTH, Entered, Served, entered, served
from tests.grpc_client import Manager, refusal
from tests.running import eventually, free_ports, lives
from tests.security.certificates import Pair, authority, signed


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("nodes")) as found:
        yield found


@pytest.fixture(scope="module")
def way_in(nodes: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Entered]:
    with entered(tmp_path_factory.mktemp("entrance") / "haproxy") as found:
        found.show(nodes.view())
        yield found


SCALE = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}]}
INSTANCES = {"instances": [[1.0]]}
FEED = {"key": ["x"], "value": ["[[1.0]]"]}


def who(url: str, session: requests.Session | None = None, version: str = "") -> float:
    """Which node answers for `scale`."""
    path = f"/v2/models/scale{version and f'/versions/{version}'}/infer"
    answer = (session or requests).post(url + path, json=SCALE, timeout=60)
    assert answer.status_code == 200, answer.text
    return float(answer.json()["outputs"][0]["data"][0])


PATHS: Mapping[str, tuple[str, object]] = {
    "/predictions/chaos": ("http:chaos:1.0", {}),
    "/predictions/chaos/1.0": ("http:chaos:1.0", {}),
    "/predictions/scale/2": ("http:scale:2", {"x": [[1.0]]}),
    "/models/chaos/invoke": ("http:chaos:1.0", {}),
    "/chaos/predict": ("http:chaos:1.0", {}),
    "/chaos/1.0/predict": ("http:chaos:1.0", {}),
    "/invocations?model_name=chaos": ("http:chaos:1.0", {}),
    "/predictions/counter": ("http:counter:1.0", {"add": 1, "end": True}),
    "/v2/models/scale/infer": ("http:scale:1", SCALE),
    "/v2/models/scale/versions/2/infer": ("http:scale:2", SCALE),
    "/v2/models/sc%61le/versions/2/infer": ("http:scale:2", SCALE),
    "/v1/models/scale:predict": ("http:scale:1", INSTANCES),
    "/v1/models/scale/versions/2:predict": ("http:scale:2", INSTANCES),
    "/V1/Models/scale/Versions/2:predict": ("http:scale:2", INSTANCES),
    "/scale/prediction": ("http:scale:1", FEED),
}


@pytest.mark.parametrize("path", PATHS)
def test_each_dialect_reaches_a_node_that_has_the_model(way_in: Entered, path: str) -> None:
    backend, body = PATHS[path]

    def ask() -> None:
        answer = requests.post(way_in.url + path, json=body, timeout=60)
        assert answer.status_code == 200, answer.text

    assert way_in.backend(ask) == backend


@pytest.mark.parametrize(
    "path", ["/v2/models/scale", "/v2/models/scale/versions/1/ready", "/v1/models/scale", "/v1/models/scale/metadata"]
)
def test_what_is_told_of_a_model_comes_from_a_node_that_has_it(way_in: Entered, path: str) -> None:
    assert way_in.backend(lambda: requests.get(way_in.url + path, timeout=60).raise_for_status()) == "http:scale:1"


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/v2/models/unknown/infer", 404, "'unknown' is not found"),
        ("/ping", 200, "Healthy"),
        ("/ocr?model=unknown", 404, "unknown"),
    ],
)
def test_what_names_no_model_goes_to_any_node(way_in: Entered, path: str, status: int, words: str) -> None:
    def ask() -> None:
        answer = requests.post(way_in.url + path, json=SCALE, timeout=60)
        assert (answer.status_code, words in answer.text) == (status, True), answer.text

    assert way_in.backend(ask) == "any_node"


@pytest.mark.parametrize(
    "path", ["/v2/repository/index", "/V2/repository/models/scale/load", "/v1/models", "/v2/models", "/V2/models/"]
)
def test_what_is_asked_of_all_nodes_together_is_the_controllers(way_in: Entered, path: str) -> None:
    assert way_in.backend(lambda: requests.post(way_in.url + path, json={}, timeout=60)) == "controller"


def tensor(module: Any) -> Any:
    found = module.InferInput("x", [1, 1], "FP32")
    found.set_data_from_numpy(np.ones((1, 1), np.float32))
    return found


def framed(*, name: bytes, version: bytes = b"") -> bytes:
    """A protobuf message with these fields 1 and 2."""
    fields = [b"\x0a" + bytes([len(name)]) + name, *([b"\x12" + bytes([len(version)]) + version] if version else [])]
    return b"".join(fields)


MESSAGES: Mapping[str, tuple[str, bytes]] = {
    "/inference.GRPCInferenceService/ModelReady": ("grpc:scale:1", framed(name=b"scale")),
    "/inference.GRPCInferenceService/ModelMetadata": ("grpc:scale:2", framed(name=b"scale", version=b"2")),
    "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions": ("grpc:chaos:1.0", framed(name=b"chaos")),
    "/tensorflow.serving.PredictionService/GetModelMetadata": (
        "grpc:scale:2",
        framed(name=framed(name=b"scale", version=b"\x08\x02")),
    ),
    "/baidu.paddle_serving.pipeline_serving.PipelineService/inference": ("grpc:scale:1", b"\x22\x05scale"),
    "/inference.GRPCInferenceService/RepositoryIndex": ("controller_grpc", b""),
    "/inference.GRPCInferenceService/RepositoryModelLoad": ("controller_grpc", b"\x12\x05scale"),
    "/inference.GRPCInferenceService/ServerLive": ("any_node_grpc", b""),
    "/inference.GRPCInferenceService/ModelConfig": ("any_node_grpc", framed(name=b"unknown")),
}


@pytest.mark.parametrize("method", MESSAGES)
def test_each_dialect_over_grpc_reaches_a_node_that_has_the_model(way_in: Entered, method: str) -> None:
    backend, message = MESSAGES[method]

    def ask() -> None:
        with grpc.insecure_channel(way_in.grpc) as channel, suppress(grpc.RpcError):  # a server refuses some
            call: Any = channel.unary_unary(method)
            call(message, timeout=60)

    assert way_in.backend(ask) == backend


def test_tritons_clients_and_streams_get_through(way_in: Entered) -> None:
    client = tritonclient.grpc.InferenceServerClient(way_in.grpc)
    large = tritonclient.grpc.InferInput("x", [1, WIDTH], "FP32")
    large.set_data_from_numpy(np.ones((1, WIDTH), np.float32))
    found: list[Any] = []
    done = threading.Semaphore(0)

    def answered(result: Any, error: Any) -> None:
        found.append(error or float(result.as_numpy("y")[0, 0]))
        done.release()

    try:
        assert {float(client.infer("scale", [tensor(tritonclient.grpc)]).as_numpy("y")[0, 0]) for _ in range(8)} == {
            1,
            2,
        }
        asked = []
        assert way_in.backend(lambda: asked.append(client.infer("wide", [large]).as_numpy("y")[0, 0])) == "grpc:wide:1"
        assert asked == [3.0 * WIDTH]
        client.start_stream(answered)
        assert not done.acquire(timeout=0.3), "a stream may begin before its first message"
        for _ in range(5):
            client.async_stream_infer("scale", [tensor(tritonclient.grpc)], model_version="2")
            assert done.acquire(timeout=60)
        client.stop_stream()
    finally:
        client.close()
    assert found == [30.0] * 5
    http = tritonclient.http.InferenceServerClient(way_in.url.removeprefix("http://"))
    assert float(http.infer("scale", [tensor(tritonclient.http)], model_version="2").as_numpy("y")[0, 0]) == 30
    http.close()


def test_management_and_metrics_lead_to_the_controller(way_in: Entered) -> None:
    for port, path in (("management", "/models"), ("metrics", "/models")):
        answer = requests.get(f"http://{way_in.entrance.addresses[port]}{path}", timeout=60)
        assert "scale" in {model["modelName"] for model in answer.json()["models"]}
    with Manager(way_in.entrance.addresses["grpc_management"]) as manage:
        assert "scale" in {model["modelName"] for model in json.loads(manage("ListModels"))["models"]}


def test_who_comes_back_on_another_port_is_found_there(way_in: Entered, nodes: Served) -> None:
    """HAProxy takes over the states of servers at a reload, and with them their addresses."""
    before = nodes.view()
    other = {node: before.nodes["b" if node == "a" else "a" if node == "b" else node] for node in before.nodes}
    only_a = (Route(ModelRef("scale", "1"), ("a",), True),)
    control = f"http://{way_in.entrance.addresses['management']}/models/wide"
    way_in.show(msgspec.structs.replace(before, routes=only_a))
    assert (who(way_in.url), requests.get(control, timeout=60).status_code) == (1.0, 404)
    management = nodes.servers["c"].management
    way_in.show(msgspec.structs.replace(before, nodes=other, routes=only_a, management=management))
    assert (who(way_in.url), requests.get(control, timeout=60).status_code) == (2.0, 200)
    way_in.show(before)


def header(way_in: Entered, name: str, **sent: str) -> str:
    """What a model sees of it."""
    headers = {key.replace("_", "-"): value for key, value in sent.items()}
    body = {"op": "header", "name": name}
    return requests.post(f"{way_in.url}/predictions/chaos", json=body, headers=headers, timeout=60).text


def test_clients_cannot_say_where_a_request_comes_from(way_in: Entered) -> None:
    assert header(way_in, "x-forwarded-for", x_forwarded_for="6.6.6.6") == "127.0.0.1"
    assert header(way_in, "x-forwarded-proto", x_forwarded_proto="https") == "http"
    assert "6.6.6.6" not in header(way_in, "pd-forwarded-by", pd_forwarded_by="6.6.6.6")
    assert header(way_in, "x-other", x_other="7") == "7"


def test_heads_may_be_as_large_as_on_one_server(way_in: Entered) -> None:
    sizes = {60_000: 200, 70_000: 400}
    for size, status in sizes.items():
        answer = requests.get(f"{way_in.url}/ping", headers={"x-large": "x" * size}, timeout=60)
        assert answer.status_code == status, size


def add(way_in: Entered, sequence: str, number: int = 1, **more: object) -> requests.Response:
    headers = {"ts_request_sequence_id": sequence} if sequence else {}
    answer = requests.post(
        f"{way_in.url}/predictions/counter", json={"add": number, **more}, headers=headers, timeout=60
    )
    assert answer.status_code == 200, answer.text
    return answer


def test_sequences_stay_on_their_node_and_are_spread(way_in: Entered, nodes: Served) -> None:
    names = [f"sequence-{number}" for number in range(24)]
    totals: dict[str, list[int]] = {name: [] for name in names}
    pids = set()
    for number, name in itertools.product(range(1, 4), names):
        told = add(way_in, name, number).json()
        totals[name].append(told["total"])
        pids.add(told["pid"])
        if number == 2 and name == names[0]:
            way_in.show(nodes.view(draining="x"))  # nothing changes
            way_in.show(EntranceView(**{**_fields(nodes.view()), "management": "http://127.0.0.1:1"}))  # a reload
    way_in.show(nodes.view())
    assert set(map(tuple, totals.values())) == {(1, 3, 6)}
    assert len(pids) == 3


def test_a_sequence_goes_to_the_same_node_from_each_entrance(way_in: Entered, nodes: Served, tmp_path: Path) -> None:
    with entered(tmp_path / "haproxy") as another:
        another.show(nodes.view())
        names = [f"shared-{number}" for number in range(24)]
        asked = [(add(each, name).json(), name) for name in names for each in (way_in, another)]
    assert [told["total"] for told, _ in asked] == [1, 2] * len(names)
    assert len({told["pid"] for told, _ in asked}) == 3


def _fields(view: EntranceView) -> dict[str, Any]:
    return {name: getattr(view, name) for name in view.__struct_fields__}


def test_a_sequence_that_its_client_leaves_unnamed_goes_on_under_the_name_that_it_is_told(way_in: Entered) -> None:
    for _ in range(6):
        first = add(way_in, "", 5)
        name = first.headers["ts_request_sequence_id"]
        assert name.startswith("ts-seq-")
        assert add(way_in, name, 6, end=True).json()["total"] == 11


class Load:
    """Clients that ask without a pause, on kept connections, over HTTP and gRPC, and note what goes wrong."""

    def __init__(self, way_in: Entered, answers: Callable[[float], bool] = lambda _: True) -> None:
        self._url, self._grpc = way_in.url, way_in.grpc
        self._answers = answers
        self._stop = threading.Event()
        self.wrong: list[str] = []
        self.answered: Counter[str] = Counter()

    def _ask(self, kind: str, ask: Callable[[], float]) -> None:
        while not self._stop.is_set():
            try:
                assert self._answers(ask())
                self.answered[kind] += 1
            except Exception as error:
                self.wrong.append(f"{kind}: {error!r}"[:500])

    def _http(self) -> None:
        with requests.Session() as session:
            self._ask("http", lambda: who(self._url, session))

    def _over_grpc(self) -> None:
        client = tritonclient.grpc.InferenceServerClient(self._grpc)
        given = tensor(tritonclient.grpc)
        self._ask("grpc", lambda: float(client.infer("scale", [given], client_timeout=60).as_numpy("y")[0, 0]))
        client.close()

    @contextmanager
    def running(self) -> Iterator[Load]:
        with ThreadPoolExecutor(4) as threads:
            for work in (self._http, self._http, self._http, self._over_grpc):
                threads.submit(work)
            try:
                self.go_on()
                yield self
                self.go_on()
            finally:
                self._stop.set()

    def go_on(self, count: int = 5) -> None:
        """Until each kind of client has had so many answers more."""
        goal = {kind: self.answered[kind] + count for kind in ("http", "grpc")}
        eventually(lambda: self.wrong or all(self.answered[kind] >= goal[kind] for kind in goal))


def test_fifty_reloads_under_load_lose_nothing(way_in: Entered, nodes: Served) -> None:
    with Load(way_in).running() as load:
        for number in range(50):
            way_in.show(EntranceView(**{**_fields(nodes.view()), "management": f"http://127.0.0.1:{number + 1}"}))
        load.go_on()
    way_in.show(nodes.view())
    assert load.wrong == []


def test_a_draining_node_ends_what_it_has_and_gets_nothing_new(way_in: Entered, nodes: Served, tmp_path: Path) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"
    body = {"op": "wait_for", "begun": str(begun), "go": str(go)}
    with ThreadPoolExecutor(1) as threads, Load(way_in).running() as load:
        direct = way_in.counts()
        waiting = threads.submit(requests.post, f"{way_in.url}/predictions/chaos", json=body, timeout=60)
        eventually(begun.exists)
        [node] = [node for node in "abc" if way_in.counts()["http:chaos:1.0", node] > direct["http:chaos:1.0", node]]
        way_in.show(nodes.view(draining=node))
        assert {who(way_in.url) for _ in range(6)} == {1.0, 2.0} - {1.0 + "abc".index(node)}
        assert way_in.counts()["http:chaos:1.0", node] == 0
        load.go_on()
        assert not waiting.done()
        go.touch()
        assert waiting.result().status_code == 200
    way_in.show(nodes.view())
    assert load.wrong == []


def test_a_model_that_is_only_on_draining_nodes_is_asked_of_the_others(way_in: Entered, nodes: Served) -> None:
    """They pass it on."""
    way_in.show(nodes.view(draining="c"))
    path = f"{way_in.url}/v2/models/scale/versions/2/ready"
    assert way_in.backend(lambda: requests.get(path, timeout=60)) == "any_node"
    way_in.show(nodes.view())


def test_a_node_that_is_not_ready_for_a_model_gets_none_of_its_requests(way_in: Entered, nodes: Served) -> None:
    def ready(node: str) -> bool:
        return way_in.servers()["http:scale:1", node]["status"] == "UP"

    nodes.servers["a"].manage("PUT", "/models/scale?min_worker=0&synchronous=true")
    eventually(lambda: way_in.servers()["http:scale:1", "a"]["status"].startswith("DOWN"))
    assert {who(way_in.url) for _ in range(6)} == {2.0}
    way_in.show(EntranceView(**{**_fields(nodes.view()), "management": "http://127.0.0.1:1"}))
    assert {who(way_in.url) for _ in range(6)} == {2.0}, "known after a reload, too"
    nodes.servers["a"].manage("PUT", "/models/scale?min_worker=1&synchronous=true")
    eventually(lambda: ready("a"))
    way_in.show(nodes.view())
    eventually(lambda: who(way_in.url) == 1.0)


def test_a_haproxy_that_dies_is_replaced_and_nobody_is_refused(way_in: Entered) -> None:
    master = way_in.entrance.pid
    family = [psutil.Process(master), *psutil.Process(master).children()]
    os.kill(master, signal.SIGKILL)
    eventually(lambda: not any(map(lives, family)))
    host, port = way_in.entrance.addresses["inference"].split(":")
    with socket.create_connection((host, int(port)), timeout=60) as sock:
        sock.sendall(b"GET /ping HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
    assert way_in.entrance.pid != master
    assert {who(way_in.url) for _ in range(8)} == {1.0, 2.0}


def test_a_full_disk_is_told_and_changes_nothing(
    way_in: Entered, nodes: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    changed = nodes.view(draining="a")
    with monkeypatch.context() as patch:
        patch.setattr("pdserver.cluster.entrance.write_private", full)
        with pytest.raises(Unavailable, match="can't be written: No space left on device"):
            way_in.show(changed)
        assert {who(way_in.url) for _ in range(6)} == {1.0, 2.0}
    way_in.show(changed)
    assert {who(way_in.url) for _ in range(6)} == {2.0}
    way_in.show(nodes.view())


def test_its_files_and_sockets_are_its_owners_alone(way_in: Entered) -> None:
    folder = way_in.entrance.folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    paths = [path for path in folder.iterdir() if not path.is_dir()]
    assert {path.name for path in paths} >= {"haproxy.cfg", "routes", "states", "master.sock", "haproxy.sock"}
    assert {path.name for path in paths if stat.S_IMODE(path.stat().st_mode) & 0o077} == set()


def test_tls_is_spoken_by_http_and_grpc_and_a_renewed_certificate_is_used(nodes: Served, tmp_path: Path) -> None:
    ca = authority(tmp_path)
    pair = signed(ca, tmp_path, "server")
    addresses = {name: Address("127.0.0.1", 0, tls=True) for name in PLAIN}
    given = Settings(
        addresses=addresses,
        certificate_file=str(pair.certificate),
        private_key_file=str(pair.key),
        options=Options(threads=1),
    )
    with entered(tmp_path / "entrance", given) as way_in:
        way_in.show(nodes.view())
        url = way_in.url.replace("http://", "https://")
        known = str(ca.certificate)
        answers = [
            requests.post(f"{url}/v2/models/scale/infer", json=SCALE, verify=known, timeout=60) for _ in range(6)
        ]
        assert {answer.json()["outputs"][0]["data"][0] for answer in answers} == {1.0, 2.0}
        client = tritonclient.grpc.InferenceServerClient(way_in.grpc, ssl=True, root_certificates=known)
        assert float(client.infer("scale", [tensor(tritonclient.grpc)]).as_numpy("y")[0, 0]) in (1, 2)
        client.close()
        with Manager(way_in.entrance.addresses["grpc_management"], authority=ca.certificate.read_bytes()) as manage:
            assert "scale" in manage("ListModels")
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{way_in.url}/ping", timeout=60)
        far = EntranceView(
            {"far": Addresses(url, "", "", f"grpcs://{way_in.grpc}")},
            frozenset(),
            (Route(ModelRef("scale", "1"), ("far",), True),),
            "",
        )
        nodes_with_tls = Settings(addresses=PLAIN, node_ca_file=known, options=Options(threads=1))
        with entered(tmp_path / "second", nodes_with_tls) as second:
            second.show(far)
            assert who(second.url) in (1.0, 2.0)
            client = tritonclient.grpc.InferenceServerClient(second.grpc)
            assert float(client.infer("scale", [tensor(tritonclient.grpc)]).as_numpy("y")[0, 0]) in (1, 2)
            client.close()
            eventually(lambda: second.servers()["http:scale:1", "far"]["check_status"] == "L7OK")
        before = _serial(ca, way_in.entrance.addresses["inference"])
        renewed = signed(ca, tmp_path, "renewed")
        pair.key.write_bytes(renewed.key.read_bytes())
        pair.certificate.write_bytes(renewed.certificate.read_bytes())
        eventually(lambda: _serial(ca, way_in.entrance.addresses["inference"]) != before)
        private = way_in.entrance.folder / "certificate.pem"
        assert stat.S_IMODE(private.stat().st_mode) == 0o600
        pair.certificate.write_text("no certificate")
        changed = nodes.view(draining="a")
        with pytest.raises(ConfigError, match=r"HAProxy refuses what it is told: .*certificate\.pem"):
            way_in.show(changed)
        assert requests.get(f"{url}/ping", verify=known, timeout=60).status_code == 200


@pytest.mark.skipif(not ssl.get_default_verify_paths().cafile, reason="this system names no authorities")
def test_nodes_are_believed_by_the_authorities_of_the_system_where_none_is_named(tmp_path: Path) -> None:
    with entered(tmp_path / "haproxy") as way_in:
        addresses = Addresses("https://127.0.0.1:1", "", "", "grpcs://127.0.0.1:1")
        way_in.show(EntranceView({"a": addresses}, frozenset(), (), ""))


def _serial(ca: Pair, address: str) -> str:
    """Of the certificate that a new connection is shown."""
    import ssl

    context = ssl.create_default_context(cafile=ca.certificate)
    host, port = address.split(":")
    with context.wrap_socket(socket.create_connection((host, int(port)), timeout=60), server_hostname=host) as sock:
        return str((sock.getpeercert() or {})["serialNumber"])


OWNER = """
import asyncio, sys
from pathlib import Path
from pdserver.cluster.base import EntranceView
from pdserver.cluster.entrance import HaproxyEntrance, Settings
from pdserver.configuration.values import Address

async def main() -> None:
    entrance = HaproxyEntrance(Path(sys.argv[1]), Settings(addresses={"inference": Address("127.0.0.1", 0)}))
    await entrance.open()
    await entrance.show(EntranceView({}, frozenset(), (), "http://127.0.0.1:1"))
    print(entrance.pid, flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


def test_haproxy_ends_with_its_owner_however_that_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path / "entrance")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        master = psutil.Process(int(owner.stdout.readline()))
        family = [master, *eventually(master.children)]
        owner.kill()
    eventually(lambda: not any(map(lives, family)))


def is_refused(address: str) -> bool:
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=60).close()
    except ConnectionError:
        return True
    return False


def test_an_end_waits_for_answers_and_not_for_idle_connections(nodes: Served, tmp_path: Path) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"
    body = {"op": "wait_for", "begun": str(begun), "go": str(go)}
    with ThreadPoolExecutor(2) as threads, requests.Session() as idle, entered(tmp_path / "entrance") as way_in:
        way_in.show(nodes.view())
        assert idle.get(f"{way_in.url}/ping", timeout=60).status_code == 200
        waiting = threads.submit(requests.post, f"{way_in.url}/predictions/chaos", json=body, timeout=60)
        eventually(begun.exists)
        ended = threads.submit(way_in.run, way_in.entrance.close(1e9))
        eventually(lambda: is_refused(way_in.entrance.addresses["inference"]))
        view = nodes.view(draining="a")
        with pytest.raises(Unavailable, match="the entrance is closed"):
            way_in.show(view)
        assert not ended.done()
        go.touch()
        assert waiting.result().status_code == 200
        ended.result()
    assert not psutil.pid_exists(way_in.entrance.pid)


NO_CONTROLLER = (
    "the cluster's controller can't be reached now, and serving goes on: it comes back, or pdserver cluster status says"
    " why not"
)


def test_without_a_node_or_a_controller_clients_are_told_so(tmp_path: Path) -> None:
    with entered(tmp_path / "entrance") as way_in:
        answer = requests.post(f"{way_in.url}/predictions/chaos", json={}, timeout=60)
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/json")
        assert answer.headers["retry-after"] == "1"
        assert answer.json() == {
            "code": 503,
            "type": "ServiceUnavailableException",
            "message": "no server can take this now: try again in a moment",
        }
        answer = requests.get(f"http://{way_in.entrance.addresses['management']}/models", timeout=60)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json() == {"code": 503, "type": "ServiceUnavailableException", "message": NO_CONTROLLER}
        client = tritonclient.grpc.InferenceServerClient(way_in.grpc)
        with pytest.raises(tritonclient.utils.InferenceServerException) as refused:
            client.infer("scale", [tensor(tritonclient.grpc)])
        client.close()
        with Manager(way_in.entrance.addresses["grpc_management"]) as manage:
            code, words = refusal(lambda: manage("ListModels"))
        assert (code, words) == (grpc.StatusCode.UNAVAILABLE, NO_CONTROLLER)
    assert refused.value.status() == "StatusCode.UNAVAILABLE"
    assert refused.value.message() == "no server can take this now: try again in a moment"


def test_settings_are_those_of_one_server_and_no_less_safe(tmp_path: Path) -> None:
    """At addresses that others can reach, TLS is a must."""
    given = {"max_connections": "100", "ts_header_key_sequence_id": "X-Seq", "idle_timeout": "9"}
    config = load_config({"model_store": str(tmp_path), **given}, {})
    told = settings(config, PLAIN).options
    assert (told.most_connections, told.sequence_headers.id, told.idle_seconds) == (100, "X-Seq", 9)
    with pytest.raises(ConfigError, match=r"inference_address=http://0\.0\.0\.0:80: others can reach this address"):
        settings(config, {"inference": Address("0.0.0.0", 80)})
    with pytest.raises(ConfigError, match="needs certificate_file and private_key_file"):
        settings(config, {"inference": Address("127.0.0.1", 80, tls=True)})


def test_ports_may_be_shared_by_what_belongs_together(nodes: Served, tmp_path: Path) -> None:
    one, two = (Address("127.0.0.1", port) for port in free_ports(2))
    shared = {"inference": one, "grpc": one, "management": two, "metrics": two, "grpc_management": two}
    config = load_config({"model_store": str(tmp_path)}, {})
    with entered(tmp_path / "entrance", settings(config, shared)) as way_in:
        way_in.show(nodes.view())
        assert who(way_in.url) in (1.0, 2.0)
        client = tritonclient.grpc.InferenceServerClient(way_in.grpc)
        assert float(client.infer("scale", [tensor(tritonclient.grpc)]).as_numpy("y")[0, 0]) in (1, 2)
        client.close()
        assert requests.get(f"{two}/models", timeout=60).status_code == 200
        with Manager(two.host_and_port) as manage:
            assert "scale" in manage("ListModels")
    with pytest.raises(ConfigError, match="predictions come in there"):
        settings(config, {"inference": one, "management": one})


def test_a_killed_node_loses_no_request_that_may_be_repeated(way_in: Entered, nodes: Served) -> None:
    server = nodes.servers["a"]
    with Load(way_in).running() as load:
        server.stop(signal.SIGKILL)
        load.go_on(50)
    assert load.wrong == []
    assert who(way_in.url) == 2.0


def test_a_taken_port_is_named_by_its_key(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address("127.0.0.1", taken.getsockname()[1])
        keys = {"grpc": "grpc_inference_address", "grpc_management": "grpc_management_address"}
        for name, key in (*keys.items(), ("metrics", "metrics_address")):
            entrance = HaproxyEntrance(tmp_path, Settings(addresses={name: address}))
            with pytest.raises(ConfigError, match=f"{key}={address}: Address already in use"):
                asyncio.run(entrance.open())
