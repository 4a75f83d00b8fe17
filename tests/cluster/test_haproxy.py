"""The configuration that is written for HAProxy: real HAProxy accepts it, whatever is served."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdserver.cluster import haproxy
from pdserver.cluster.base import EntranceView
from pdserver.cluster.haproxy import Options, Port, Texts, texts
from pdserver.cluster.haproxy_process import CONFIGURATION, binary
from pdserver.errors import ConfigError
from pdserver.peers.base import Addresses, Route
from pdserver.types import ModelRef, SequenceHeaders
from tests.security.certificates import authority


@pytest.fixture(scope="module")
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("haproxy")
    authority(folder).certificate.rename(folder / haproxy.NODE_CA)
    return folder


def node(number: int, *, grpc: bool = True) -> Addresses:
    return Addresses(f"http://10.0.0.{number}:8080", "", "", f"10.0.0.{number}:7070" if grpc else "")


def view(
    *routes: Route, draining: str = "", management: str = "http://127.0.0.1:8081", **nodes: Addresses
) -> EntranceView:
    nodes = nodes or {"a": node(1), "b": node(2), "c": node(3)}
    return EntranceView(nodes, frozenset(draining), routes, management)


def route(
    name: str, version: str = "1.0", nodes: str = "abc", *, default: bool = True, sequences: bool = False
) -> Route:
    return Route(ModelRef(name, version), tuple(nodes), default, sequences)


def refused(made: Texts, folder: Path, listener: socket.socket) -> str:
    """What HAProxy has against it."""
    (folder / CONFIGURATION).write_text(made.configuration)
    (folder / haproxy.ROUTES).write_text(made.routes)
    done = subprocess.run(
        [binary(), "-c", "-f", CONFIGURATION],
        cwd=folder,
        pass_fds=[listener.fileno()],
        capture_output=True,
        text=True,
    )
    return "" if done.returncode == 0 and "[WARNING]" not in done.stderr else done.stderr


def servers(made: Texts) -> dict[str, dict[str, str]]:
    """What stands after the address of each server, by its name and its backend's."""
    found: dict[str, dict[str, str]] = {}
    for line in made.configuration.splitlines():
        if line.startswith("backend "):
            backend = found.setdefault(line.split()[1], {})
        elif line.startswith("    server "):
            _, name, address, *rest = line.split()
            backend[name] = " ".join([address, *rest])
    return found


PORTS = ("inference", "grpc", "management", "grpc_management", "metrics")
VIEWS: Mapping[str, EntranceView] = {
    "nothing": EntranceView({}, frozenset(), (), ""),
    "nodes without models": view(),
    "a model": view(route("scale")),
    "versions on other nodes": view(route("m", "1", "ab"), route("m", "2", "bc", default=False)),
    "sequences": view(route("counter", sequences=True), route("scale")),
    "draining": view(route("scale"), draining="b"),
    "a node without gRPC": view(route("scale", nodes="a"), a=node(1, grpc=False)),
    "IPv6 and names": view(
        route("scale", nodes="ab"),
        a=Addresses("http://[::1]:8080", "", "", "[::1]:7070"),
        b=Addresses("http://localhost:8080", "", "", "localhost:7070"),
        management="http://[::1]:8081",
    ),
    "a controller on another machine": msgspec.structs.replace(
        view(management="https://10.0.0.9:8081"), grpc_management="grpcs://10.0.0.9:7071"
    ),
    "a controller with gRPC": msgspec.structs.replace(view(), grpc_management="127.0.0.1:7071"),
    "a node that is not told": view(route("scale", nodes="xyz")),
    "names at their longest": view(route("m" * 128, "v" * 128)),
}


@pytest.mark.parametrize("given", VIEWS)
def test_haproxy_accepts_it(given: str, folder: Path, listener: socket.socket) -> None:
    ports = {name: Port(listener.fileno()) for name in PORTS}
    assert not refused(texts(VIEWS[given], Options(token="t0ken", threads=1), ports), folder, listener)


ODD = st.text(max_size=40)
PLAIN = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}", fullmatch=True)
ROUTES = st.builds(
    lambda name, version, nodes, *rest: Route(ModelRef(name, version), tuple(nodes), *rest),
    PLAIN | ODD,
    PLAIN | ODD,
    st.lists(st.sampled_from("abcx") | ODD, max_size=4),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["", "paddlex/ocr"]) | ODD,
)
ADDRESSES = st.builds(
    lambda http, grpc: Addresses(http, "", "", grpc),
    st.sampled_from(["http://10.0.0.1:80", "https://10.0.0.1:8"]) | ODD,
    st.sampled_from(["10.0.0.1:70", "grpcs://10.0.0.1:70", ""]) | ODD,
)


@settings(max_examples=40)
@given(
    st.dictionaries(st.sampled_from("abcd") | ODD, ADDRESSES, max_size=5),
    st.sets(st.sampled_from("abcd")),
    st.lists(ROUTES, max_size=6),
    ODD,
)
def test_nothing_that_is_told_can_break_it_or_add_to_it(
    folder: Path,
    listener: socket.socket,
    nodes: dict[str, Addresses],
    draining: set[str],
    routes: list[Route],
    management: str,
) -> None:
    told = EntranceView(nodes, frozenset(draining), tuple(routes), management)
    made = texts(told, Options(), {"inference": Port(listener.fileno())})
    assert not refused(made, folder, listener)
    words = {word for line in made.configuration.splitlines() for word in line.split()[:1]}
    assert words <= {
        *("global", "defaults", "frontend", "backend", "server", "bind", "mode", "log", "balance", "option", "retries"),
        *(
            "maxconn",
            "nbthread",
            "stats",
            "timeout",
            "http-error",
            "http-check",
            "http-request",
            "http-response",
            "acl",
        ),
        *("use_backend", "default_backend", "default-server", "hard-stop-after", "server-state-file", "http-reuse"),
        *("hash-type", "retry-on", "mworker-max-reloads", "ssl-default-bind-options", "load-server-state-from-file"),
        *("tune.bufsize", "tune.http.maxhdr", "tune.h2.fe.max-concurrent-streams", "srvtcpka-idle", "srvtcpka-intvl"),
        "srvtcpka-cnt",
    }


def test_a_version_is_asked_of_its_nodes_and_no_version_is_the_default_one() -> None:
    made = texts(view(route("m", "1", "ab"), route("m", "2", "bc", default=False)), Options(), {})
    assert made.routes.splitlines() == ["m/1 m:1", "m/ m:1", "m/2 m:2"]
    assert {name: set(found) for name, found in servers(made).items()} == {
        "any_node": set("abc"), "any_node_grpc": set("abc"), "controller": {"controller"}, "controller_grpc": set(),
        "http:m:1": set("ab"), "grpc:m:1": set("ab"), "http:m:2": set("bc"), "grpc:m:2": set("bc"),
    }  # fmt: skip
    assert "uri /v2/models/m/versions/2/ready " in made.configuration


def test_paddlex_tasks_lead_to_a_pipeline_with_the_contract() -> None:
    routes = [
        Route(ModelRef(name, "1"), ("a",), True, contract=contract)
        for name, contract in {
            "pages": "paddlex/ocr",
            "more": "paddlex/ocr",
            "other": "else",
            "x": "paddlex/a b",
        }.items()
    ]
    assert texts(view(*routes), Options(), {}).routes.splitlines() == [
        *("pages/1 pages:1", "pages/ pages:1", "ocr/ pages:1", "more/1 more:1", "more/ more:1"),
        *("other/1 other:1", "other/ other:1", "x/1 x:1", "x/ x:1"),
    ]


def test_tls_of_a_node_is_that_of_each_of_its_ports() -> None:
    given = view(route("m", nodes="a"), a=Addresses("https://10.0.0.1:8080", "", "", "10.0.0.1:7070"))
    made = servers(texts(given, Options(), {}))
    assert " ssl verify required ca-file node_ca.pem " in made["http:m:1.0"]["a"]
    assert " ssl " not in made["grpc:m:1.0"]["a"]
    given = view(route("m", nodes="a"), a=Addresses("http://10.0.0.1:8080", "", "", "grpcs://10.0.0.1:7070"))
    made = servers(texts(given, Options(certificate=True), {}))
    assert " ssl " not in made["http:m:1.0"]["a"]
    assert made["grpc:m:1.0"]["a"].startswith("10.0.0.1:7070 ")
    assert "ssl verify required ca-file node_ca.pem crt certificate.pem alpn h2 id " in made["grpc:m:1.0"]["a"]


def test_a_draining_node_gets_nothing_new() -> None:
    made = servers(texts(view(route("m"), draining="b"), Options(), {}))
    for backend in ("any_node", "any_node_grpc", "http:m:1.0", "grpc:m:1.0"):
        assert [name for name, rest in made[backend].items() if " weight 0 " in rest] == ["b"]


def test_nodes_keep_their_numbers_when_others_go() -> None:
    """Sequences are hashed to them."""
    before = servers(texts(view(route("m", sequences=True)), Options(), {}))["http:m:1.0"]
    after = servers(texts(view(route("m", sequences=True), a=node(1), c=node(3)), Options(), {}))["http:m:1.0"]
    assert after == {name: before[name] for name in "ac"}


def test_broken_requests_are_repeated_where_there_are_no_sequences() -> None:
    made = texts(view(route("m"), route("counter", sequences=True)), Options(), {}).configuration
    sections = dict(re.findall(r"^defaults (\w+)\n((?: .*\n)*)", made, re.MULTILINE))
    repeating = {name for name, lines in sections.items() if "retry-on conn-failure empty-response" in lines}
    assert repeating == {"models_http", "models_grpc"}
    assert "backend http:m:1.0 from models_http" in made
    assert "backend grpc:counter:1.0 from sequences_grpc" in made


def test_a_node_without_an_address_is_left_out_and_told() -> None:
    for odd in (Addresses("nonsense", "", "", ""), Addresses("http://10.0.0.1:65536", "", "", "")):
        made = texts(view(route("m", nodes="ab"), a=node(1), b=odd), Options(), {})
        assert made.left_out == ("b",)
        assert set(servers(made)["http:m:1.0"]) == {"a"}


def test_many_copies_are_not_asked_more_often_than_nodes_can_answer() -> None:
    few, many = (texts(view(*(route(f"m{i}") for i in range(count))), Options(), {}) for count in (10, 1000))
    assert "default-server inter 1000ms" in few.configuration
    assert "default-server inter 10010ms" in many.configuration


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Options(token="two words"), "token: "),
        (Options(sequence_headers=SequenceHeaders(id="a b")), "ts_header_key_sequence_id: "),
    ],
)
def test_an_option_that_haproxy_cannot_be_told_is_refused(options: Options, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        texts(view(route("m")), options, {})
    assert "two words" not in str(refused.value)


def test_a_low_limit_of_descriptors_lowers_the_connections() -> None:
    assert "    maxconn 4096\n" in texts(view(), Options(), {}).configuration
    assert "    maxconn 382\n" in texts(view(), Options(descriptors=1024), {}).configuration
