"""The house's rules: imports go down the staircase, and some libraries have one door only."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAIRCASE = [
    ("pdarchiver",),
    ("pdserver.errors", "pdserver", "pdserver.backends", "pdserver.dialects"),
    ("pdserver.types", "pdserver.http2", "pdserver.budget", "pdserver.descriptors"),
    ("pdserver.values", "pdserver.memory_file", "pdserver.devices", "pdserver.standard_streams", "pdserver.folders"),
    ("pdserver.marked_lines",),
    ("pdserver.sources",),
    ("pdserver.tensors", "pdserver.strict_json"),
    ("pdserver.properties", "pdserver.safe_yaml"),
    ("pdserver.settings",),
    ("pdserver.config_values",),
    ("pdserver.security",),
    ("pdserver.snapshot_text",),
    ("pdserver.counters",),
    ("pdserver.exposition", "pdserver.system_metrics"),
    ("pdserver.metrics_config", "pdserver.metrics_log", "pdserver.metric_families"),
    ("pdserver.custom_metrics", "pdserver.sinks", "pdserver.batched_log"),
    ("pdserver.config", "pdserver.store", "pdserver.metrics", "pdserver.openapi", "pdserver.access_log"),
    ("pdserver.log_files",),
    ("pdserver.logs", "pdserver.telemetry"),
    ("pdserver.transfer",),
    ("pdserver.downloads",),
    ("pdserver.run_directory", "pdserver.environments"),
    ("pdserver.guards",),
    ("pdserver.handlers",),
    ("pdserver.worker", "pdserver.ts_compat"),
    ("pdserver.backends.base",),
    ("pdserver.backends.adopted", "pdserver.backends.channel", "pdserver.backends.log_pipe"),
    ("pdserver.backends.local_worker",),
    ("pdserver.backends.local",),
    ("pdserver.engine", "pdserver.dialects.codec", "pdserver.dialects.rpc"),
    (
        "pdserver.dialects.base",
        "pdserver.dialects.beside",
        "pdserver.dialects.protos",
        "pdserver.dialects.tensors",
        "pdserver.dialects.request_id",
    ),
    ("pdserver.heads",),
    ("pdserver.dialects.torchserve.errors", "pdserver.client"),
    ("pdserver.asgi", "pdserver.connection", "pdserver.known_heads"),
    ("pdserver.dialects.torchserve", "pdserver.dialects.oip", "pdserver.dialects.standard", "pdserver.management"),
    ("pdserver.triton", "pdserver.codec"),
    ("pdserver.protocol", "pdserver.grpc_transport", "pdserver.plugins"),
    ("pdserver.grpc_ports", "pdserver.listener", "pdserver.signals"),
    ("pdserver.ports",),
    ("pdserver.http_ports",),
    ("pdserver.status", "pdserver.arguments", "pdserver.reports"),
    ("pdserver.server",),
    ("pdserver.cli",),
    ("pdserver.__main__",),
]
ONE_DOOR = {
    "paddle": {"pdserver.handlers.predictor", "pdserver.handlers.eager"},
    "grpc": {"pdserver.client.grpc"},
    "httpx": {"pdserver.client.aio"},
    "prometheus_client": {"pdserver.exposition"},
    "requests": {"pdserver.client.rest"},
    "hpack": {"pdserver.http2.blocks", "pdserver.http2.skim"},
    "multiprocessing": set[str](),
    "pickle": set[str](),
}


def modules() -> dict[str, ast.Module]:
    found = {}
    for package in ("pdarchiver", "pdserver"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(path.read_text())
    return found


MODULES = modules()


def imported(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {
                f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in MODULES else node.module
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


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_downwards(name: str) -> None:
    height, room = step(name)
    for other in imported(MODULES[name]) & MODULES.keys():
        other_height, other_room = step(other)
        assert other_room == room or other_height < height, f"{name} imports {other}"


@pytest.mark.parametrize("library", ONE_DOOR)
def test_some_libraries_have_one_door(library: str) -> None:
    users = {name for name, tree in MODULES.items() if any(used.split(".")[0] == library for used in imported(tree))}
    assert users <= ONE_DOOR[library]


def test_the_client_has_nothing_of_the_server_but_the_protocols_messages() -> None:
    clients = [name for name in MODULES if name.startswith("pdserver.client")]
    others = {used for name in clients for used in imported(MODULES[name]) & MODULES.keys()} - set(clients)
    assert others == {"pdserver.dialects.protos"}


@pytest.mark.parametrize(
    ("room", "below"),
    [("pdserver.http2", set[str]()), ("pdserver.grpc_transport", {"pdserver.http2", "pdserver.dialects.rpc"})],
)
def test_the_transport_of_grpc_knows_nothing_of_the_server(room: str, below: set[str]) -> None:
    """What a method is, it takes from `dialects.rpc`; anything else is handed in."""
    inside = {name for name in MODULES if name == room or name.startswith(room + ".")}
    others = {used for name in inside for used in imported(MODULES[name]) & MODULES.keys()} - inside
    assert {used for used in others if not any((used + ".").startswith(each + ".") for each in below)} == set()


def test_the_environment_is_read_in_one_place() -> None:
    readers = {name for name, tree in MODULES.items() if re.search(r"'(environb?|getenv)'", ast.dump(tree))}
    assert readers - {"pdserver.worker.environment", "pdserver.grpc_transport.server"} <= {
        "pdserver.config",
        "pdserver.cli",
        "pdserver.backends.local",
        "pdarchiver.cli",
    }, "these two only write"
