"""The Open Inference Protocol: the tiny model as JSON, in binary and by gRPC; and a float32 tensor of 10 MB in and out,
in binary."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from bench import tables
from bench.bare import loop_rate
from bench.peers.base import Configuration
from bench.results import ScenarioResults
from bench.run import Run
from bench.scenarios.fit import CONFIGURATIONS, CONNECTIONS
from bench.tables import OURS, Target, ratio
from bench.ways import OIP_BINARY, OIP_GRPC, OIP_JSON, REST
from bench.workloads import prepare

_WAYS = (OIP_JSON, OIP_BINARY, OIP_GRPC)
_PEER = "PyTriton"
_LARGE = "10 MB, c={}"
_LOOP = "bare loop"


class Oip:
    name: ClassVar[str] = "oip"

    def measure(self, run: Run) -> None:
        both = {name: CONFIGURATIONS[name] for name in (OURS, _PEER)}
        run.closed_loops(prepare("fit"), both, CONNECTIONS, (REST, *_WAYS))
        large = prepare("large")
        rate = loop_rate(large, 1, 1, run.seconds)
        run.record(_LOOP, "loop", {"requests_per_second": rate, "p50_ms": 1000 / rate})
        typed = dataclasses.replace(large, handler="base_handler")
        run.closed_loops(typed, dict.fromkeys(both, (Configuration(),)), (1, 4), (OIP_BINARY,), _LARGE)

    def report(self, results: ScenarioResults) -> str:
        cases = [case for case in results.cases() if "c=" in case]
        rows = [
            [f"{server}, {configuration}", *(self._cell(results, case, server, configuration) for case in cases)]
            for server in (OURS, _PEER)
            for configuration in results.configurations(server)
        ]
        alone = results.median("p50_ms", "loop", _LOOP)
        text = "not measured" if alone is None else f"{tables.number(alone)} ms"
        return (
            f"{tables.table(['Server', *cases], rows)}\n"
            f"Reading, running and writing the tensor of 10 MB in a loop, without a server: {text}.\n"
        )

    def targets(self, results: ScenarioResults) -> list[Target]:
        key = "requests_per_second"
        found = []
        for way in _WAYS:
            for case in (f"c={count}" for count in CONNECTIONS):
                reached = ratio(self._best(results, case, OURS, way), self._best(results, case, _PEER, way))
                found.append(Target(case, f"requests/s by {way}, to {_PEER}", reached, "≥", 1.0))
        for case in map(_LARGE.format, (1, 4)):
            theirs = results.best(key, case, _PEER)
            found.append(
                Target(case, f"to {_PEER}", ratio(results.median(key, case, OURS), theirs and theirs[0]), "≥", 1.0)
            )
        cases = [f"c={count}" for count in CONNECTIONS]
        return found + tables.to_rest(results, _WAYS, str(CONFIGURATIONS[OURS][0]), cases, 0.75)

    def _best(self, results: ScenarioResults, case: str, server: str, way: str) -> float | None:
        configurations = [name for name in results.configurations(server) if name.startswith(way)]
        medians = [results.median("requests_per_second", case, server, name) for name in configurations]
        return max(filter(None, medians), default=None)

    def _cell(self, results: ScenarioResults, case: str, server: str, configuration: str) -> str:
        rate, p50 = (results.median(key, case, server, configuration) for key in ("requests_per_second", "p50_ms"))
        return "–" if rate is None or p50 is None else f"{tables.number(rate)}/s, {tables.number(p50)} ms"
