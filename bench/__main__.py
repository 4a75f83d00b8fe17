"""`python -m bench`: measures, and writes the report."""

from __future__ import annotations

import argparse
import contextlib
import resource
import signal
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from bench import report
from bench.paths import ROOT
from bench.peers.base import Peer
from bench.peers.floor import Floor
from bench.peers.litserve import LitServe
from bench.peers.mosec import Mosec
from bench.peers.ours import Ours
from bench.peers.pytriton import PyTriton
from bench.peers.torchserve import TorchServe
from bench.results import ScenarioResults, this_machine
from bench.run import FAILURES, Run
from bench.scenarios.base import Scenario
from bench.scenarios.cluster import Cluster
from bench.scenarios.engines import Engines
from bench.scenarios.fit import Fit
from bench.scenarios.front_ends import FrontEnds
from bench.scenarios.growth import Growth
from bench.scenarios.grpc import Grpc
from bench.scenarios.image import Image
from bench.scenarios.large import Large
from bench.scenarios.many import Many
from bench.scenarios.oip import Oip
from bench.scenarios.open_loop import OpenLoop
from bench.scenarios.paddle import Paddle
from bench.scenarios.pipeline import Pipeline
from bench.scenarios.production import Production
from bench.scenarios.profile import Profile
from bench.scenarios.resnet50 import ResNet50
from bench.scenarios.scale import Scale
from bench.scenarios.second_worker import SecondWorker
from bench.scenarios.start import Start
from bench.scenarios.tfserving import TfServing

PEERS: dict[str, Peer] = {peer.name: peer for peer in (Ours(), Floor(), Mosec(), TorchServe(), LitServe(), PyTriton())}
_ALL: tuple[Scenario, ...] = (
    Fit(),
    Grpc(),
    Oip(),
    OpenLoop(),
    Image(),
    ResNet50(),
    Large(),
    Scale(),
    Start(),
    SecondWorker(),
    Many(),
    Growth(),
    Production(),
    Paddle(),
    TfServing(),
    Pipeline(),
    Engines(),
    Profile(),
    FrontEnds(),
    Cluster(),
)
SCENARIOS = {scenario.name: scenario for scenario in _ALL}


def main() -> None:
    # On SIGTERM, exit normally, so that the started servers are ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    arguments = _parse()
    peers = {name: peer for name, peer in PEERS.items() if name == Ours.name or name in arguments.peers}
    for name in arguments.scenarios or SCENARIOS:
        results = _measure(SCENARIOS[name], peers, arguments.rounds, arguments.seconds)
        report.update(arguments.report, SCENARIOS[name], results)
        print(f"{name}: in {arguments.report / report.PAGE}", flush=True)


def _measure(scenario: Scenario, peers: dict[str, Peer], rounds: int, seconds: float) -> ScenarioResults:
    run = Run(scenario.name, peers, seconds)
    for run.round in range(1, rounds + 1):
        try:
            scenario.measure(run)
        except FAILURES as error:
            run.record("all", "round", {}, failure=str(error))
    measured = {cell.server for cell in run.measurements}
    versions = {name: peer.version() for name, peer in peers.items() if name in measured}
    return ScenarioResults(
        date=datetime.now(timezone.utc).date().isoformat(),
        command=f"make bench SCENARIO={scenario.name} ROUNDS={rounds} SECONDS={seconds:g}",
        rounds=rounds,
        seconds=seconds,
        machine=this_machine(),
        versions=versions | _engines(),
        measurements=run.measurements,
    )


def _engines() -> dict[str, str]:
    """The versions of those that are installed."""
    found = {}
    for name in ("paddlepaddle", "onnxruntime", "openvino"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; all if none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of load for each cell")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS), help="beside ours")
    parser.add_argument("--report", type=Path, default=ROOT / "docs", help="the folder of performance.md and its data")
    arguments = parser.parse_args()
    for name in arguments.scenarios:
        if name not in SCENARIOS:
            parser.error(f"unknown scenario {name!r}: it is one of {', '.join(SCENARIOS)}")
    return arguments


if __name__ == "__main__":
    main()
