"""HAProxy's configuration for a cluster, as text.

Each version of a model has a backend: the nodes that serve it, of which the least busy one that says it is ready gets
the request. The request's path names the model, or its gRPC message does. What names none that is known here, or none
that a node is ready for, goes to any node, which passes it on or says in its dialect's words what is wrong. So a rule
that finds no model, or the wrong one, costs a hop and breaks nothing.

Pure. Everything that comes from elsewhere is checked before it is written: nothing can add a line or a word.
"""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from urllib.parse import urlsplit

import msgspec

from pdserver.cluster import haproxy_words as words
from pdserver.cluster.base import EntranceView
from pdserver.errors import ConfigError
from pdserver.peers.base import Addresses, Route
from pdserver.types import SequenceHeaders

CERTIFICATE, CLIENT_CA, NODE_CA = "certificate.pem", "client_ca.pem", "node_ca.pem"
ROUTES, STATES = "routes", "states"
"""Files beside the configuration, which it names."""
_GRPC_TLS = "grpcs://"
_PADDLEX = "paddlex/"
_REQUESTS, _CONTROL = ("inference", "grpc"), ("management", "metrics", "grpc_management")
_GRPC = frozenset({"grpc", "grpc_management"})
"""Ports."""
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_HEADER = re.compile(r"[A-Za-z0-9_-]{1,128}")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\]")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_LAST_PORT = 65535
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,1024}")
_CHECKS_PER_SECOND = 300
"""At most, of all copies together; but each copy is checked every _MOST_CHECK_SECONDS."""
_OTHER_DESCRIPTORS = 256
_CHECKS = "fastinter 500ms downinter 1s init-addr last,libc,none"
"""A name that can't be resolved puts its node out of use, and nothing else."""
_SILENT = "tcp-ut 10s"
"""A machine that acknowledges nothing of a request for so long is gone; else the system would go on sending for a
quarter of an hour. HAProxy heeds this only where it stands with the server itself."""
_LEAST_CHECK_SECONDS, _MOST_CHECK_SECONDS = 1.0, 30.0


class Port(msgspec.Struct, frozen=True):
    """Where HAProxy accepts: a socket that listens, which it inherits."""

    descriptor: int
    tls: bool = False


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How requests get in, whatever is served."""

    sequence_headers: SequenceHeaders = SequenceHeaders()
    token: str = ""
    """With which models are asked whether they are ready; needed when the nodes need tokens."""
    longest_seconds: float = 3600.0
    """For which an answer is waited for; longer than the response timeouts of all models."""
    slow_client_seconds: float = 20.0
    """In which a request's head must come, and of its body as much as can be repeated."""
    idle_seconds: float = 75.0
    """After which a connection without a request is closed."""
    most_connections: int = 4096
    """Of all ports together."""
    repeatable_bytes: int = 64 * 1024
    """Requests of at most this size are sent to another node when the first one dies. Each open request holds twice as
    much memory. It is also the limit of a request's head."""
    threads: int = 0
    """Of HAProxy; 0: one for each processor."""
    certificate: bool = False
    """Whether there is one, for clients, and for nodes that want to see one."""
    client_ca: bool = False
    """Whether clients need a certificate."""
    descriptors: int = 2**20
    """That HAProxy may have open."""


class Texts(msgspec.Struct, frozen=True):
    """What HAProxy reads."""

    configuration: str
    routes: str
    """A map from `MODEL/VERSION`, and from `MODEL/` for the default version, to the names of backends. PaddleX's paths
    name a task, for which a pipeline with this contract is the model."""
    left_out: tuple[str, ...] = ()
    """Nodes whose address is none."""


def texts(view: EntranceView, options: Options, ports: Mapping[str, Port]) -> Texts:
    """`ports` are inference, grpc, management, grpc_management and metrics, or some of them. Raises ConfigError for an
    option that HAProxy can't be told."""
    nodes = _nodes(view, options)
    routes = [route for route in _plain(view.routes) if not nodes.keys().isdisjoint(route.nodes)]
    copies = sum(len(route.nodes) for route in routes) + len(nodes)
    lines = [
        *_global(options, copies),
        *_defaults(options, copies),
        *_frontends(options, ports),
        *_any_node(nodes.values()),
        *_controller(view, _trust(options)),
    ]
    for route in routes:
        lines += _model(route, [nodes[node] for node in dict.fromkeys(route.nodes) if node in nodes], options)
    return Texts("\n".join(lines) + "\n", "".join(_mapped(routes)), tuple(sorted(view.nodes.keys() - nodes.keys())))


class _Node:
    """A node's servers, under the same name and number in all backends. Raises ValueError for an odd address."""

    def __init__(self, node: str, number: int, addresses: Addresses, *, draining: bool, trust: str) -> None:
        """`trust` says whose certificates are believed."""
        self._http = _over_http(addresses.inference, trust)
        self._grpc = _over_grpc(addresses.grpc, trust) if addresses.grpc else ""
        self._name = node if _WORD.fullmatch(node) else f"node-{number}"
        self._rest = f"id {number} {_SILENT}" + (" weight 0" if draining else "")

    def over_http(self) -> str:
        return f"    server {self._name} {self._http} {self._rest} check"

    def over_grpc(self, checked: str) -> Iterator[str]:
        """Nothing for a node without gRPC. `checked` is the backend whose checks count."""
        if self._grpc:
            yield f"    server {self._name} {self._grpc} {self._rest} track {checked}/{self._name}"


def _nodes(view: EntranceView, options: Options) -> dict[str, _Node]:
    """Those with an address that can be told. Each has a number that stays the same when others come and go: sequences
    are hashed to it."""
    trust = _trust(options)
    nodes: dict[str, _Node] = {}
    taken: set[int] = set()
    for node in sorted(view.nodes):
        number = zlib.crc32(node.encode()) % 2**30 + 1
        while number in taken:
            number += 1
        taken.add(number)
        with contextlib.suppress(ValueError):
            nodes[node] = _Node(node, number, view.nodes[node], draining=node in view.draining, trust=trust)
    return nodes


def _trust(options: Options) -> str:
    """Whose certificates are believed, and what is shown to whoever wants to see one."""
    return f"verify required ca-file {NODE_CA}" + (f" crt {CERTIFICATE}" if options.certificate else "")


def _over_http(url: str, trust: str) -> str:
    """A server's address, and how it is spoken to. Raises ValueError for an odd one."""
    parts = urlsplit(url)
    return _address(parts.netloc) + (f" ssl {trust}" if parts.scheme == "https" else "")


def _over_grpc(where: str, trust: str) -> str:
    """Likewise."""
    address = where.removeprefix(_GRPC_TLS)
    return f"{_address(address)} " + ("proto h2" if address == where else f"ssl {trust} alpn h2")


def _address(text: str) -> str:
    """HOST:PORT. Raises ValueError."""
    host, _, port = text.rpartition(":")
    if not _HOST.fullmatch(host) or not _PORT.fullmatch(port) or int(port) > _LAST_PORT:
        raise ValueError(text)
    return text


def _plain(routes: Iterable[Route]) -> Iterable[Route]:
    """Those with names and versions as archives have them. Others are left to the nodes."""
    plain = {
        route.ref: route for route in routes if _WORD.fullmatch(route.ref.name) and _WORD.fullmatch(route.ref.version)
    }
    return plain.values()


def _global(options: Options, copies: int) -> Iterator[str]:
    possible = (options.descriptors - _OTHER_DESCRIPTORS - copies) // 2
    yield "global"
    yield f"    maxconn {min(options.most_connections, max(possible, 16))}"
    if options.threads:
        yield f"    nbthread {options.threads}"
    yield f"    tune.bufsize {options.repeatable_bytes}"
    yield f"    hard-stop-after {_milliseconds(options.longest_seconds)}"
    yield f"    server-state-file {STATES}"
    yield from words.LIMITS


def _defaults(options: Options, copies: int) -> Iterator[str]:
    """Those of all proxies; then those of the models' backends, which have more."""
    seconds = min(max(copies / _CHECKS_PER_SECOND, _LEAST_CHECK_SECONDS), _MOST_CHECK_SECONDS)
    named = {"id": options.sequence_headers.id, "start": options.sequence_headers.start}
    headers = [_checked(_HEADER, text, f"ts_header_key_sequence_{key}", "a header") for key, text in named.items()]
    sequences = words.sequences(*headers)
    for name, more, falls in (("all", (), 2), ("models", words.MODELS, 2), ("sequences", sequences, 5)):
        for protocol, failures in (("http", words.FAILURES), ("grpc", words.GRPC_FAILURES)):
            yield f"defaults {name}_{protocol}"
            yield f"    timeout client {_milliseconds(options.longest_seconds)}"
            yield f"    timeout server {_milliseconds(options.longest_seconds)}"
            yield f"    timeout http-request {_milliseconds(options.slow_client_seconds)}"
            yield f"    timeout http-keep-alive {_milliseconds(options.idle_seconds)}"
            yield f"    default-server inter {_milliseconds(seconds)} {_CHECKS} fall {falls} rise 1"
            yield from (*words.ALL, *more, *failures)


def _frontends(options: Options, ports: Mapping[str, Port]) -> Iterator[str]:
    if any(name in ports for name in _REQUESTS):
        yield "frontend requests from all_http"
        yield from _binds(options, ports, _REQUESTS)
        yield from words.requests(_milliseconds(options.slow_client_seconds), _milliseconds(options.longest_seconds))
    if any(name in ports for name in _CONTROL):
        yield "frontend control from all_http"
        yield from _binds(options, ports, _CONTROL)
        yield from words.CONTROL


def _binds(options: Options, ports: Mapping[str, Port], names: Sequence[str]) -> Iterator[str]:
    clients = f" ca-file {CLIENT_CA} verify required" if options.client_ca else ""
    bound: set[int] = set()
    for name in names:
        port = ports.get(name)
        if port is None or port.descriptor in bound:
            continue
        bound.add(port.descriptor)
        protocols = "h2" if name in _GRPC else "h2,http/1.1"
        tls = f" ssl crt {CERTIFICATE} alpn {protocols}{clients}" if port.tls else ""
        plain = " proto h2" if name in _GRPC and not port.tls else ""
        yield f"    bind fd@{port.descriptor}{tls}{plain}"


def _any_node(nodes: Collection[_Node]) -> Iterator[str]:
    yield "backend any_node from all_http"
    yield from words.ANY_NODE
    yield from (node.over_http() for node in nodes)
    yield "backend any_node_grpc from all_grpc"
    for node in nodes:
        yield from node.over_grpc("any_node")


def _controller(view: EntranceView, trust: str) -> Iterator[str]:
    yield "backend controller from all_http"
    yield words.NO_CONTROLLER
    with contextlib.suppress(ValueError):
        yield f"    server controller {_over_http(view.management, trust)}"
    yield "backend controller_grpc from all_grpc"
    yield words.NO_GRPC_CONTROLLER
    with contextlib.suppress(ValueError):
        yield f"    server controller {_over_grpc(view.grpc_management, trust)}"


def _model(route: Route, nodes: Collection[_Node], options: Options) -> Iterator[str]:
    name, version = route.ref.name, route.ref.version
    kind = "sequences" if route.sequences else "models"
    token = _checked(_TOKEN, options.token, "token", "a token") if options.token else ""
    proves = f' hdr Authorization "Bearer {token}"' if token else ""
    yield f"backend http:{name}:{version} from {kind}_http"
    uri = f"/v2/models/{name}/versions/{version}/ready"
    yield f"    http-check send meth GET uri {uri} ver HTTP/1.1 hdr Host localhost{proves}"
    yield from (node.over_http() for node in nodes)
    yield f"backend grpc:{name}:{version} from {kind}_grpc"
    for node in nodes:
        yield from node.over_grpc(f"http:{name}:{version}")


def _mapped(routes: Collection[Route]) -> Iterator[str]:
    names = {route.ref.name for route in routes}
    for route in routes:
        backend = f"{route.ref.name}:{route.ref.version}"
        yield f"{route.ref.name}/{route.ref.version} {backend}\n"
        if route.default:
            yield f"{route.ref.name}/ {backend}\n"
        task = route.contract.removeprefix(_PADDLEX)
        if route.default and task != route.contract and _WORD.fullmatch(task) and task not in names:
            yield f"{task}/ {backend}\n"
            names.add(task)


def _checked(pattern: re.Pattern[str], text: str, key: str, what: str) -> str:
    """Raises ConfigError, which does not show the text: it may be secret."""
    if not pattern.fullmatch(text):
        raise ConfigError(f"{key}: expected {what}, in characters that HAProxy can be told")
    return text


def _milliseconds(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"
