"""TensorFlow Serving's languages: the tiny model beside our other ways, a tensor of 10 MB in and out, and latencies
while a new version takes over.

TensorFlow Serving itself can't be compared: no package registry for Python has its server.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import time
import urllib.request
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import ClassVar

from bench import tables
from bench.load import Target as Request
from bench.open_loop import Open, open_loop
from bench.peers.base import Configuration, Server
from bench.peers.ours import Ours
from bench.processes import Processes, clean_environment, free_ports
from bench.results import ScenarioResults
from bench.run import WARM_UP_SECONDS, Run
from bench.scenarios.fit import CONNECTIONS
from bench.tables import OURS, Target, ratio
from bench.tensorflow_serving import TFS_GRPC, TFS_JSON, is_right, rest
from bench.ways import OIP_BINARY, OIP_GRPC, REST
from bench.workloads import Workload, prepare

_OURS = Configuration(batch_size=32)
_ONE = Configuration()
_LARGE = "10 MB, c={}"
_LARGE_CONNECTIONS = (1, 4)
_RATE = 500
"""Requests per second while versions change."""
_BEFORE, _DURING, _AFTER = "before", "while version 2 takes over", "after"
_PHASES = (_BEFORE, _DURING, _AFTER)
_CHANGE_SECONDS = 5.0
"""At least so long for each phase: a new version is found within a second, and loaded in one more."""
_READY_SECONDS = 60.0


class TfServing:
    name: ClassVar[str] = "tfserving"

    def measure(self, run: Run) -> None:
        run.closed_loops(prepare("fit"), {OURS: (_OURS,)}, CONNECTIONS, (REST, OIP_GRPC, TFS_JSON, TFS_GRPC))
        self._large(run)
        self._change(run)

    def _large(self, run: Run) -> None:
        workload = dataclasses.replace(prepare("large"), handler="base_handler")
        settings = {"tensorflow_tensor_content": "true"}
        with Ours().start(workload, _ONE, run.folder("large"), settings).by(OIP_BINARY) as server:
            for way in (OIP_BINARY, OIP_GRPC, TFS_GRPC):
                for connections in _LARGE_CONNECTIONS:
                    run.record_closed_loop(server.by(way), OURS, f"{way}, {_ONE}", connections, _LARGE)

    def _change(self, run: Run) -> None:
        """Latencies at a constant rate before, while and after a new version's folder is found, loaded and served."""
        workload = prepare("fit")
        folder = run.folder("change")
        with _start(workload, folder) as server, ThreadPoolExecutor(1) as pool:
            assert isinstance(server.target, Request)
            load = partial(open_loop, server.target, _RATE)
            load(WARM_UP_SECONDS)
            seconds = max(run.seconds, _CHANGE_SECONDS)
            _record(run, _BEFORE, load(seconds))
            changing = pool.submit(load, seconds)
            _put_version(workload, folder / "models", 2)
            _wait_for_version(server.target.url.removesuffix(":predict"), 2, changing)
            _record(run, _DURING, changing.result())
            _record(run, _AFTER, load(seconds))

    def report(self, results: ScenarioResults) -> str:
        rows = []
        for phase in _PHASES:
            values = [results.median(key, phase, OURS) for key in ("p50_ms", "p99_ms", "max_ms")]
            rows.append([phase, *("–" if value is None else tables.number(value) for value in values)])
        large = [
            [title, *(_milliseconds(results, _LARGE.format(count), title) for count in _LARGE_CONNECTIONS)]
            for title in (f"{way}, {_ONE}" for way in (OIP_BINARY, OIP_GRPC, TFS_GRPC))
        ]
        return (
            f"{tables.closed_loop_table(results, all_of=OURS)}\n"
            "A float32 tensor of 10 MB in and out, p50 in ms:\n\n"
            f"{tables.table(['Way', *(f'c={count}' for count in _LARGE_CONNECTIONS)], large)}\n"
            f"{_RATE} requests per second while a new version's folder is found, loaded and served, in ms:\n\n"
            f"{tables.table(['Phase', 'p50', 'p99', 'longest'], rows)}\n"
            "TensorFlow Serving itself is not beside it: no registry of Python packages has its server.\n"
        )

    def targets(self, results: ScenarioResults) -> list[Target]:
        cases = [f"c={count}" for count in CONNECTIONS]
        found = tables.to_rest(results, (TFS_JSON,), str(_OURS), cases, 0.8)
        for case in cases:
            rates = (
                results.median("requests_per_second", case, OURS, f"{way}, {_OURS}") for way in (TFS_GRPC, OIP_GRPC)
            )
            found.append(Target(case, f"requests/s by {TFS_GRPC}, to {OIP_GRPC}", ratio(*rates), "≥", 0.8))
        for count in _LARGE_CONNECTIONS:
            case = _LARGE.format(count)
            times = (results.median("p50_ms", case, OURS, f"{way}, {_ONE}") for way in (TFS_GRPC, OIP_BINARY))
            found.append(Target(case, f"p50 by {TFS_GRPC}, to {OIP_BINARY}", ratio(*times), "≤", 1.2))
        change = (results.median("p99_ms", phase, OURS) for phase in (_DURING, _BEFORE))
        found.append(Target(f"{_RATE}/s", "p99 while a version takes over, to before", ratio(*change), "≤", 1.2))
        return found


def _start(workload: Workload, folder: Path) -> Server:
    """TensorFlow Serving's command line with version 1 of the model."""
    models = folder / "models"
    models.mkdir()
    _put_version(workload, models, 1)
    port, grpc = free_ports(2)
    command = [sys.executable, "-m", "pdserver.tensorflow_model_server", f"--model_name={workload.name}"]
    command += [f"--model_base_path={models}", f"--rest_api_port={port}", f"--port={grpc}"]
    processes = Processes(command, folder, clean_environment())
    return Server(processes, rest(workload, folder, f"127.0.0.1:{port}"), partial(is_right, workload))


def _put_version(workload: Workload, models: Path, version: int) -> None:
    """Put the model there as this version, whole."""
    staged = models.parent / f"version-{version}"
    staged.mkdir()
    for file in workload.folder.glob("model.*"):
        shutil.copy(file, staged)
    staged.rename(models / str(version))


def _wait_for_version(url: str, version: int, load: Future[Open]) -> None:
    """Wait until it is served. Raises RuntimeError if it is not while there is load."""
    while not load.done():
        with urllib.request.urlopen(url, timeout=_READY_SECONDS) as response:
            found = json.loads(response.read())["model_version_status"]
        if any(each["version"] == str(version) and each["state"] == "AVAILABLE" for each in found):
            return
        time.sleep(0.05)
    raise RuntimeError(f"version {version} is not served: {found}")


def _record(run: Run, phase: str, done: Open) -> None:
    values: Mapping[str, float] = {
        "p50_ms": done.p50_ms,
        "p99_ms": done.p99_ms,
        "max_ms": done.max_ms,
        "requests": float(done.requests),
    }
    run.record(OURS, phase, values, failure=f"{done.failures} requests failed" if done.failures else "")


def _milliseconds(results: ScenarioResults, case: str, configuration: str) -> str:
    value = results.median("p50_ms", case, OURS, configuration)
    return "–" if value is None else tables.number(value)
