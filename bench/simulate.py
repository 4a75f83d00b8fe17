"""`python -m bench.simulate`: simulates what is not at hand, with measured costs, and writes the report.

What is measured is in docs/performance.json, which `make bench` writes.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from bench import report
from bench.paths import ROOT
from bench.results import Results, ScenarioResults, read, this_machine
from bench.run import Run
from bench.scenarios.base import Scenario
from bench.simulation.cells import Cells
from bench.simulation.costs import NotMeasured
from bench.simulation.machines import Machines
from bench.simulation.sizes import Sizes


def simulations(measured: Results) -> tuple[Scenario, ...]:
    return (Machines(measured), Cells(measured), Sizes())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.simulate", description=__doc__)
    parser.add_argument("--report", type=Path, default=ROOT / "docs", help="the folder of performance.json")
    folder = parser.parse_args().report
    measured = read(folder / report.DATA)
    missing: list[str] = []
    for each in simulations(measured):
        run = Run(each.name, {}, 0.0, round=1)
        try:
            each.measure(run)
        except NotMeasured as error:
            missing.append(str(error))
            continue
        report.update(folder, each, _results(run))
        print(f"{each.name}: written", flush=True)
    if missing:
        sys.exit("\n".join(missing))


def _results(run: Run) -> ScenarioResults:
    return ScenarioResults(
        date=datetime.now(timezone.utc).date().isoformat(),
        command="python -m bench.simulate",
        rounds=1,
        seconds=0,
        machine=this_machine(),
        versions={"simpy": metadata.version("simpy")},
        measurements=run.measurements,
    )


if __name__ == "__main__":
    main()
