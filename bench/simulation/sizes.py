"""How large a cluster's data become, and what handling them costs: with the cluster's own code, made-up machines."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from bench import tables
from bench.paths import ROOT
from bench.peers.base import Configuration
from bench.peers.ours import Ours, wait_until_loaded
from bench.processes import clean_environment
from bench.results import ScenarioResults
from bench.run import FAILURES, Run
from bench.tables import Target
from bench.workloads import prepare
from pdserver.cluster import haproxy
from pdserver.cluster.base import Archive, CopyStatus, EntranceView, NodeStatus, Wanted
from pdserver.cluster.haproxy_process import CONFIGURATION, check, write_private
from pdserver.cluster.state import State
from pdserver.peers.base import Addresses, Peers, Route
from pdserver.types import ModelRef

COPIES_BY_NODE = 6
CLUSTERS = {10: 20, 100: 100, 1_000: 500}
"""Machines, and models: the larger a cluster, the more copies each has."""
BEAT_SECONDS = 0.5
"""Between two questions of the controller to each node."""
SCRAPE_SECONDS = 15.0
_SAMPLE_BYTES = 2.0
"""At most, as Prometheus' documentation says."""
_EXTRA_MODELS = 10
_ASKING = ROOT / "bench" / "serving" / "ray_calls.py"


class Sizes:
    """Measured, but not in rounds: sizes do not vary, and times are only orders of magnitude."""

    name: ClassVar[str] = "cluster_sizes"

    def measure(self, run: Run) -> None:
        for nodes, models in CLUSTERS.items():
            run.record("cluster", _case(nodes), _sizes(nodes, models))
        for what, work in (("calls", _calls), ("metrics", lambda: _metrics(run.folder("metrics")))):
            try:
                run.record(what, what, work())
            except (*FAILURES, subprocess.SubprocessError) as error:
                run.record(what, what, {}, failure=str(error))

    def report(self, results: ScenarioResults) -> str:
        cases = [_case(nodes) for nodes in CLUSTERS]
        rows = [
            [title, *(_shown(results.median(key, case, "cluster"), unit) for case in cases)]
            for key, title, unit in _ROWS
        ]
        head = ["", *(f"{nodes:,} machines, {models:,} models" for nodes, models in CLUSTERS.items())]
        return f"{tables.table(head, rows)}\n{_others(results)}\n{_per_second(results)}"

    def targets(self, results: ScenarioResults) -> list[Target]:
        return []


_ROWS = (
    ("snapshot", "snapshot, on the controller and on each node", "B"),
    ("snapshot_ms", "writing it as JSON", "ms"),
    ("peers", "`peers.json`, on each node", "B"),
    ("peers_all", "…of all nodes together, for each change of a route", "B"),
    ("peers_ms", "reading it, on each node", "ms"),
    ("status", "a node's status, twice a second", "B"),
    ("haproxy", "HAProxy's configuration, at each entrance", "B"),
    ("haproxy_ms", "making and checking it, for each change of a route", "ms"),
    ("checks", "health checks of each entrance, per second", ""),
)


def _case(nodes: int) -> str:
    return f"{nodes} nodes"


def _shown(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    if unit != "B":
        return f"{tables.number(value)} {unit}".strip()
    for name in ("B", "kB", "MB"):
        if value < 1000 or name == "MB":
            return f"{tables.number(value)} {name}"
        value /= 1000
    return ""


def _sizes(nodes: int, models: int) -> dict[str, float]:
    state, view, status = made_up(nodes, models)
    snapshot, snapshot_ms = _timed(lambda: msgspec.json.encode(state))
    peers = msgspec.json.encode(Peers(status.node, view.nodes, view.routes))
    _, peers_ms = _timed(lambda: msgspec.json.decode(peers, type=Peers))
    configuration, haproxy_ms, checks = asyncio.run(_haproxy(view))
    return {
        "snapshot": len(snapshot),
        "snapshot_ms": snapshot_ms,
        "peers": len(peers),
        "peers_all": len(peers) * nodes,
        "peers_ms": peers_ms,
        "status": len(pickle.dumps(status)),
        "haproxy": configuration,
        "haproxy_ms": haproxy_ms,
        "checks": checks,
    }


def made_up(nodes: int, models: int) -> tuple[State, EntranceView, NodeStatus]:
    """A cluster whose nodes have `COPIES_BY_NODE` copies each, all models as many; and the status of a node."""
    names = [f"{number:056x}" for number in range(nodes)]
    refs = [ModelRef(f"model-{number}", "1.0") for number in range(models)]
    copies = [(names[at // COPIES_BY_NODE], refs[at % models]) for at in range(nodes * COPIES_BY_NODE)]
    archives = {ref: Archive(f"{number:064x}", f"{ref.name}.pdar", 10**8) for number, ref in enumerate(refs)}
    each = len(copies) // models
    wanted = tuple(
        Wanted(ref=ref, url=f"{ref.name}.pdar", archive=archives[ref], copies=each, memory_bytes=10**8, default=True)
        for ref in refs
    )
    placed: dict[str, tuple[ModelRef, ...]] = {}
    by_model: dict[ModelRef, list[str]] = {}
    for node, ref in copies:
        placed[node] = (*placed.get(node, ()), ref)
        by_model.setdefault(ref, []).append(node)
    addresses = {name: _addresses(number) for number, name in enumerate(names)}
    routes = tuple(Route(ref, tuple(sorted(by_model[ref])), True) for ref in refs)
    status = NodeStatus(
        node=names[0],
        host="10.0.0.1",
        addresses=addresses[names[0]],
        version="0.2.0",
        revision=1000,
        copies=tuple(CopyStatus(ref, True, memory_bytes=10**8) for ref in placed[names[0]]),
        archives=tuple(archives[ref].sha256 for ref in placed[names[0]]),
    )
    return State(wanted, placed), EntranceView(addresses, frozenset(), routes, "http://10.0.0.1:8081"), status


def _addresses(number: int) -> Addresses:
    host = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    return Addresses(f"http://{host}:8080", f"http://{host}:8081", f"http://{host}:8082", f"{host}:7070")


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and the milliseconds of the fastest of three times."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        done = work()
        times.append(time.perf_counter() - started)
    return done, min(times) * 1e3


async def _haproxy(view: EntranceView) -> tuple[float, float, float]:
    """Bytes of its configuration, milliseconds to make and check it, and health checks per second."""
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0)) as sock:
        folder, started = Path(name), time.perf_counter()
        texts = haproxy.texts(view, haproxy.Options(), {"inference": haproxy.Port(sock.fileno())})
        write_private(folder / CONFIGURATION, texts.configuration.encode())
        write_private(folder / haproxy.ROUTES, texts.routes.encode())
        await check(folder, [sock.fileno()])
        spent = time.perf_counter() - started
    lines = texts.configuration.splitlines()
    seconds = next(float(line.split()[2].removesuffix("ms")) for line in lines if "default-server inter" in line) / 1e3
    checked = sum(line.endswith(" check") or " check ssl" in line for line in lines)
    return float(len(texts.configuration)), spent * 1e3, checked / seconds


def _calls() -> dict[str, float]:
    """Of one process to an actor on the same machine: questions about a status, and an archive's pieces."""
    status = made_up(10, 20)[2]
    environment = clean_environment() | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-W", "ignore", str(_ASKING)]
    done = subprocess.run(command, input=pickle.dumps(status), capture_output=True, env=environment, timeout=120)
    if done.returncode:
        raise RuntimeError(done.stderr.decode(errors="replace")[-1000:])
    found: dict[str, float] = msgspec.json.decode(done.stdout.splitlines()[-1], type=dict[str, float])
    return found


def _metrics(folder: Path) -> dict[str, float]:
    """A node's series, with one model and with more."""
    workload, found = prepare("fit"), []
    for count in (1, 1 + _EXTRA_MODELS):
        more = "".join(f",model{number}={workload.name}.pdar" for number in range(1, count))
        settings = {"load_models": f"{workload.name}.pdar{more}", "state_location": str(folder / f"state{count}")}
        with Ours().start(workload, Configuration(), folder / str(count), settings) as server:
            wait_until_loaded(server)
            server.check()
            with urllib.request.urlopen(f"{server.metrics}/metrics", timeout=30) as response:
                text = response.read().decode()
        found.append((sum(not line.startswith("#") for line in text.splitlines()), len(text)))
    (series, size), (all_series, all_size) = found
    return {
        "series": series - (all_series - series) / _EXTRA_MODELS,
        "series_of_model": (all_series - series) / _EXTRA_MODELS,
        "bytes_of_model": (all_size - size) / _EXTRA_MODELS,
    }


def _others(results: ScenarioResults) -> str:
    keys = ("calls_per_second", "cpu_us_per_call", "mb_per_second")
    calls, cpu, pieces = (results.median(key, "calls", "calls") for key in keys)
    own, model = (results.median(key, "metrics", "metrics") for key in ("series", "series_of_model"))
    lines = []
    if calls and cpu and pieces:
        lines.append(
            f"- One process asks an actor for its status {calls:,.0f} times a second, for {cpu:,.0f} µs of CPU time "
            f"each; pieces of an archive come at {pieces:,.0f} MB/s. Both are on this machine, which has "
            f"{os.cpu_count()} cores for all of it."
        )
    if own and model:
        lines.append(f"- A node has {own:,.0f} series for Prometheus, and {model:,.0f} for each copy of a model.")
    return "".join(f"{line}\n" for line in lines)


def _per_second(results: ScenarioResults) -> str:
    """What follows for one cluster of so many machines, and for cells."""
    calls = results.median("calls_per_second", "calls", "calls")
    own, model = (results.median(key, "metrics", "metrics") for key in ("series", "series_of_model"))
    rows = []
    for machines in (10, 1_000, 100_000):
        asked = machines / BEAT_SECONDS
        shown = [f"{asked:,.0f}", "–" if calls is None else f"{asked / calls:,.2f}"]
        if own is None or model is None:
            rows.append([f"{machines:,} machines", *shown, "–", "–", "–"])
            continue
        series = machines * (own + COPIES_BY_NODE * model)
        day = series / SCRAPE_SECONDS * 86400 * _SAMPLE_BYTES
        shown += [f"{series:,.0f}", f"{series / SCRAPE_SECONDS:,.0f}", f"{day / 1e9:,.1f} GB"]
        rows.append([f"{machines:,} machines", *shown])
    head = ["As one cluster", "questions/s", "controllers' time", "series", "samples/s", "a day of them"]
    return (
        f"Each machine with {COPIES_BY_NODE} copies, asked every {BEAT_SECONDS:g} s and scraped every "
        f"{SCRAPE_SECONDS:g} s, {_SAMPLE_BYTES:g} bytes a sample; controllers' time: 1 is all that one process can "
        f"ask:\n\n"
        f"{tables.table(head, rows)}"
    )
