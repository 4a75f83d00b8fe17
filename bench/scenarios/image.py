"""A photograph (JPEG, 640×427, 100 kB) → OpenCV → MobileNetV3-small: the usual work of a model server."""

from __future__ import annotations

from typing import ClassVar

from bench import tables
from bench.bare import loop_rate
from bench.peers.base import Configuration
from bench.results import ScenarioResults
from bench.run import Run
from bench.tables import OURS, Target, ratio
from bench.workloads import prepare

_OURS_BY_PROCESSES = {workers: Configuration(batch_size=8, workers=workers) for workers in (1, 2)}
CONFIGURATIONS = {
    OURS: tuple(_OURS_BY_PROCESSES.values()),
    "mosec": (
        Configuration(batch_size=8, max_batch_delay_ms=2),
        Configuration(workers=2),
        Configuration(batch_size=4, max_batch_delay_ms=2, workers=2),
        Configuration(batch_size=8, max_batch_delay_ms=2, workers=2),
    ),
    "TorchServe": (
        Configuration(batch_size=8, max_batch_delay_ms=2),
        Configuration(workers=2),
        Configuration(batch_size=4, max_batch_delay_ms=2, workers=2),
    ),
    "LitServe": (
        Configuration(workers=2),
        Configuration(batch_size=4, max_batch_delay_ms=2, workers=2),
    ),
    "PyTriton": (Configuration(), Configuration(batch_size=8, max_batch_delay_ms=2)),
}
LOOP = "bare loop"
_BATCH_SIZES = (1, 2, 4, 8)


class Image:
    name: ClassVar[str] = "image"

    def measure(self, run: Run) -> None:
        workload = prepare("image")
        for processes in _OURS_BY_PROCESSES:
            for batch_size in _BATCH_SIZES:
                rate = loop_rate(workload, processes, batch_size, run.seconds)
                configuration = str(Configuration(batch_size=batch_size, workers=processes))
                run.record(LOOP, "loop", {"requests_per_second": rate}, configuration=configuration)
        run.closed_loops(workload, CONFIGURATIONS, (1, 8))

    def report(self, results: ScenarioResults) -> str:
        rows = []
        for processes in _OURS_BY_PROCESSES:
            rates = [_loop(results, processes, batch_size) for batch_size in _BATCH_SIZES]
            cells = ["–" if rate is None else f"{tables.number(rate)}/s" for rate in rates]
            rows.append([f"{processes} process{'es' if processes > 1 else ''}", *cells])
        head = ["The same work in a loop, without a server", *(f"batch {size}" for size in _BATCH_SIZES)]
        return f"{tables.closed_loop_table(results, all_of=OURS)}\n{tables.table(head, rows)}"

    def targets(self, results: ScenarioResults) -> list[Target]:
        key, case = "requests_per_second", "c=8"
        found = []
        for processes, configuration in _OURS_BY_PROCESSES.items():
            ours = results.median(key, case, OURS, str(configuration))
            batch = results.median("mean_batch", case, OURS, str(configuration)) or 1.0
            nearest = min(_BATCH_SIZES, key=lambda size: abs(size - batch))
            text = f"requests/s, {processes} worker(s) to as many loops of batch {nearest} (ours took {batch:.1f})"
            found.append(Target(case, text, ratio(ours, _loop(results, processes, nearest)), "≥", 1.0))
        ours = results.median(key, case, OURS, str(_OURS_BY_PROCESSES[2]))
        mosec = results.best(key, case, "mosec")
        found.append(Target(case, "requests/s, to mosec's best", ratio(ours, mosec and mosec[0]), "≥", 1.4))
        return found


def _loop(results: ScenarioResults, processes: int, batch_size: int) -> float | None:
    configuration = str(Configuration(batch_size=batch_size, workers=processes))
    return results.median("requests_per_second", "loop", LOOP, configuration)
