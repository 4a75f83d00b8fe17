"""What several front ends cost: CPU time of each kind of process for a request, every process bound to a core.

Beside them, whole servers on one port that share nothing, and messages through shared memory instead of a socketpair.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from bench import rings, tables
from bench.kinds import FRONT_END, KINDS, MAIN, WORKER, cpu_by_kind, pin
from bench.load import closed_loop
from bench.paths import ROOT
from bench.peers.base import Configuration, Server
from bench.peers.ours import PROGRAM, Ours, wait_until_loaded
from bench.results import ScenarioResults
from bench.rings import RING, SOCKETPAIR
from bench.run import FAILURES, WARM_UP_SECONDS, Run
from bench.tables import OURS, Target, ratio
from bench.workloads import prepare

Cores = Mapping[str, tuple[int, ...]]
ONE, TWO_FRONT_ENDS, TWO_SERVERS = "one process", "2 front ends", "2 servers on one port"
APART = "front ends on core 0, the rest on core 1"
_SHARED_PORT = (sys.executable, "-W", "ignore", str(ROOT / "bench" / "serving" / "shared_port.py"))


@dataclass(frozen=True)
class Setup:
    name: str
    pinning: str
    cores: Sequence[Cores]
    """Of each server."""
    settings: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}, {self.pinning}"


SETUPS = (
    Setup(ONE, "its worker on the other core", [{FRONT_END: (0,), MAIN: (0,), WORKER: (1,)}]),
    Setup(ONE, "all on one core", [{FRONT_END: (0,), MAIN: (0,), WORKER: (0,)}]),
    Setup(TWO_FRONT_ENDS, APART, [{FRONT_END: (0,), MAIN: (1,), WORKER: (1,)}], {"front_ends": "2"}),
    Setup(
        TWO_FRONT_ENDS,
        "one on each core, main on 0, worker on 1",
        [{FRONT_END: (0, 1), MAIN: (0,), WORKER: (1,)}],
        {"front_ends": "2"},
    ),
    Setup(TWO_SERVERS, "each on a core", [dict.fromkeys(KINDS, (0,)), dict.fromkeys(KINDS, (1,))]),
)
WORKLOADS: Mapping[str, tuple[Configuration, tuple[int, ...]]] = {
    "fit": (Configuration(batch_size=32), (1, 8, 64)),
    "image": (Configuration(batch_size=8), (1, 8, 64)),
    "resnet50": (Configuration(), (8,)),
}
"""What is asked, and by how many connections."""
IN_FLIGHT = (1, 8, 64)
_SETTINGS = {"job_queue_size": "1000"}
"""The clients of a warm-up leave requests behind, which are in the queue when the next ones ask."""
_KEYS = {kind: f"{kind.replace(' ', '_')}_us" for kind in KINDS}
"""CPU µs for each request."""
LOAD_KEY = "load_us"
"""The load generator's own."""


class FrontEnds:
    name: ClassVar[str] = "front_ends"

    def measure(self, run: Run) -> None:
        for name in WORKLOADS:
            for setup in SETUPS:
                try:
                    self._setup(run, name, setup)
                except FAILURES as error:
                    run.record(OURS, f"{name} start", {}, configuration=str(setup), failure=str(error))
        for line in (SOCKETPAIR, RING):
            for count in IN_FLIGHT:
                values = rings.measure(line, count, min(run.seconds, 2.0))
                run.record(line, f"{count} in flight", values)

    def _setup(self, run: Run, name: str, setup: Setup) -> None:
        workload, (configuration, connections) = prepare(name), WORKLOADS[name]
        with contextlib.ExitStack() as stack:
            servers: list[Server] = []
            for number, cores in enumerate(setup.cores):
                folder = run.folder(f"{name} {setup.name} {number}")
                settings = {**setup.settings, **_SETTINGS, "state_location": str(folder / "state")}
                if servers:  # the same port
                    settings["inference_address"] = servers[0].target.url.rpartition("/predictions/")[0]
                program = _SHARED_PORT if len(setup.cores) > 1 else PROGRAM
                server = Ours().start(workload, configuration, folder, settings, program=program)
                servers.append(stack.enter_context(server))
                wait_until_loaded(server)
                pin(server.processes, cores)
            for count in connections:
                closed_loop(servers[0].target, count, WARM_UP_SECONDS)
                _record(run, servers, str(setup), f"{name} c={count}", count)

    def report(self, results: ScenarioResults) -> str:
        parts = [f"`{name}`, CPU µs for each request:\n\n{_costs_table(results, name)}" for name in WORKLOADS]
        return "\n".join([*parts, _latency(results), _lines_table(results)])

    def targets(self, results: ScenarioResults) -> list[Target]:
        return []


def cost(results: ScenarioResults, case: str, setup: Setup, kind: str) -> float | None:
    """CPU µs of the processes of a kind for each request. Processes that do not exist cost nothing."""
    return results.median(_KEYS[kind], case, OURS, str(setup))


def _record(run: Run, servers: Sequence[Server], setup: str, case: str, connections: int) -> None:
    before, counted, load = _cpu(servers), _counters(servers), _load_seconds()
    done = closed_loop(servers[0].target, connections, run.seconds)
    after, now, load = _cpu(servers), _counters(servers), _load_seconds() - load
    servers[0].check()
    values = {
        "requests_per_second": done.requests_per_second,
        "p50_ms": done.p50_ms,
        "p99_ms": done.p99_ms,
        "requests": float(done.requests),
    }
    if done.requests:
        values |= {_KEYS[kind]: (after[kind] - before[kind]) / done.requests * 1e6 for kind in KINDS}
        values[LOAD_KEY] = load / done.requests * 1e6
    changes = {name: now[name] - counted[name] for name in now}
    if batches := changes["pd_handler_seconds_count"]:
        values["mean_batch"] = changes["pd_batch_size_sum"] / batches
        values["batch_ms"] = changes["pd_handler_seconds_sum"] / batches * 1e3
    failure = f"{done.failures} requests failed" if done.failures else "" if done.requests else "nothing was answered"
    run.record(OURS, case, values, configuration=setup, failure=failure)


def _cpu(servers: Sequence[Server]) -> dict[str, float]:
    found = [cpu_by_kind(server.processes) for server in servers]
    return {kind: sum(each[kind] for each in found) for kind in KINDS}


def _load_seconds() -> float:
    """CPU time of the load generators so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _counters(servers: Sequence[Server]) -> dict[str, float]:
    found = dict.fromkeys(("pd_batch_size_sum", "pd_handler_seconds_sum", "pd_handler_seconds_count"), 0.0)
    for server in servers:
        with urllib.request.urlopen(f"{server.metrics}/metrics", timeout=30) as response:
            for line in response.read().decode().splitlines():
                name = line.partition("{")[0]
                if name in found:
                    found[name] += float(line.rpartition(" ")[2])
    return found


def _costs_table(results: ScenarioResults, name: str) -> str:
    rows = []
    for count in WORKLOADS[name][1]:
        for setup in SETUPS:
            case = f"{name} c={count}"
            rate, p50 = (results.median(key, case, OURS, str(setup)) for key in ("requests_per_second", "p50_ms"))
            if rate is None or p50 is None:
                continue
            costs = [cost(results, case, setup, kind) or 0.0 for kind in KINDS]
            shown = [tables.number(value) if value else "" for value in (*costs, sum(costs))]
            rows.append([f"c={count}: {setup}", *shown, f"{tables.number(rate)}/s", f"{tables.number(p50)} ms"])
    return tables.table(["", *KINDS, "all", "requests", "p50"], rows)


def _latency(results: ScenarioResults) -> str:
    """What front ends add to a request's time when nothing else is asked. Larger models' times vary by more than it."""
    alone, beside = (setup for setup in SETUPS if setup.pinning in (SETUPS[0].pinning, APART))
    times = [results.median("p50_ms", "fit c=1", OURS, str(setup)) for setup in (alone, beside)]
    if None in times:
        return ""
    added = (times[1] or 0.0) - (times[0] or 0.0)
    return f"Front ends add {added * 1e3:,.0f} µs to the p50 of one client of `fit`, in the first pinning of each.\n"


def _lines_table(results: ScenarioResults) -> str:
    rows = []
    for count in IN_FLIGHT:
        case = f"{count} in flight"
        costs = [
            [results.median(key, case, line) for key in ("front_end_us", "main_us")] for line in (SOCKETPAIR, RING)
        ]
        sums = [sum(value or 0.0 for value in each) for each in costs]
        saved = ratio(sums[1], sums[0])
        shown = ["–" if value is None else f"{value:.2f}" for each in costs for value in each]
        rows.append([case, *shown, "–" if saved is None else f"{saved:.2f} ×"])
    head = ["", *(f"{line}, {side}" for line in (SOCKETPAIR, RING) for side in ("front end", "main")), "ring to pair"]
    return (
        "A message and its answer between a front end and the main process, the same frames through a socketpair and "
        f"through a ring of shared memory, CPU µs on each side:\n\n{tables.table(head, rows)}"
    )
