"""What the simulations take from the measurements in docs/performance.json."""

from __future__ import annotations

from bench.kinds import FRONT_END, MAIN, WORKER
from bench.results import Results, ScenarioResults
from bench.scenarios.front_ends import APART, LOAD_KEY, ONE, SETUPS, TWO_FRONT_ENDS, Setup, cost
from bench.simulation.machine import NOTHING, Cost, Workload
from bench.tables import OURS

SINGLE = next(setup for setup in SETUPS if setup.name == ONE)
BESIDE = next(setup for setup in SETUPS if setup.name == TWO_FRONT_ENDS and setup.pinning == APART)
_US = 1e-6
BATCH_SIZES = {"fit": 32, "image": 8, "resnet50": 1, "ocr": 1}


class NotMeasured(Exception):
    """What the simulation needs is not in performance.json."""


def workloads(results: Results) -> dict[str, Workload]:
    """Those of the scenario front_ends, and `ocr`: a page as one piece of work. Raises NotMeasured."""
    measured = results.get("front_ends")
    if measured is None:
        raise NotMeasured("the costs are not measured: make bench SCENARIO=front_ends ROUNDS=1")
    found = {name: _workload(measured, name) for name in ("fit", "image", "resnet50")}
    image, batch = found["image"], Cost(0.0, page_seconds(results))
    return found | {"ocr": Workload("ocr", image.single, image.front_end, image.engine, batch, BATCH_SIZES["ocr"])}


def page_seconds(results: Results) -> float:
    """How long a page of OCR keeps one core busy. Raises NotMeasured."""
    measured = results.get("pipeline")
    pages = measured.median("requests_per_second", "c=16", OURS) if measured else None
    if not measured or not pages:
        raise NotMeasured("the pages are not measured: make bench SCENARIO=pipeline")
    return measured.machine.cores / pages


def load_cost(measured: ScenarioResults, name: str, setup: Setup) -> Cost:
    """Of the load generator."""
    counts = _connections(measured, name, setup)
    values = [(1.0, measured.median(LOAD_KEY, f"{name} c={count}", OURS, str(setup)) or 0.0) for count in counts]
    return Cost(0.0, min(value for _, value in values) * _US) if values else NOTHING


def _workload(measured: ScenarioResults, name: str) -> Workload:
    return Workload(
        name,
        single=_cost(measured, name, SINGLE, MAIN),
        front_end=_cost(measured, name, BESIDE, FRONT_END),
        engine=_cost(measured, name, BESIDE, MAIN),
        batch=_cost(measured, name, SINGLE, WORKER),
        batch_size=BATCH_SIZES[name],
    )


def _cost(measured: ScenarioResults, name: str, setup: Setup, kind: str) -> Cost:
    """A line through what requests cost at different numbers of requests at once.

    How many requests a turn of an event loop has is not counted, so the mean batch stands for it.
    """
    points = []
    for count in _connections(measured, name, setup):
        case = f"{name} c={count}"
        size = measured.median("mean_batch", case, OURS, str(setup)) or 1.0
        value = cost(measured, case, setup, kind)
        if kind == WORKER:  # without the time that it spins
            batch_ms = measured.median("batch_ms", case, OURS, str(setup))
            value = batch_ms and batch_ms * 1e3 / size
        if value:
            points.append((size, value * _US))
    if not points:
        raise NotMeasured(f"{name}, {setup}, is not measured: make bench SCENARIO=front_ends ROUNDS=1")
    return line(points)


def line(points: list[tuple[float, float]]) -> Cost:
    """The cost whose mean for each of `size` requests is as given, from the smallest and the largest size."""
    (small, dear), (large, cheap) = min(points), max(points)
    if large < 1.5 * small or cheap >= dear:
        return Cost(0.0, sum(value for _, value in points) / len(points))
    at_once = min((dear - cheap) / (1 / small - 1 / large), dear * small)
    return Cost(at_once, max(cheap - at_once / large, 0.0))


def _connections(measured: ScenarioResults, name: str, setup: Setup) -> list[int]:
    found = {cell.case for cell in measured.measurements if cell.configuration == str(setup) and not cell.failure}
    prefix = f"{name} c="
    return sorted(int(case.removeprefix(prefix)) for case in found if case.startswith(prefix))
