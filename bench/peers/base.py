"""The interface of the compared servers."""

from __future__ import annotations

import dataclasses
import json
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Protocol

from bench.frames import Frames
from bench.load import Target, ask
from bench.paths import ROOT
from bench.processes import Processes, clean_environment
from bench.rpc import Rpc
from bench.workloads import Workload

_READY_SECONDS = 60.0


@dataclass(frozen=True)
class Configuration:
    batch_size: int = 1
    max_batch_delay_ms: int = 0
    workers: int = 1
    engine: str = ""
    """Of ours: what runs the model, in an archive that was packed with `--optimize`. Empty: packed without."""

    def __str__(self) -> str:
        text = f"batch {self.batch_size}"
        if self.max_batch_delay_ms:
            text += f", wait {self.max_batch_delay_ms} ms"
        if self.engine:
            text += f", engine {self.engine}"
        return text if self.workers == 1 else f"{self.workers} workers, {text}"


@dataclass(frozen=True)
class Batches:
    requests: float
    count: float


class WrongAnswer(Exception):
    """A server gave another answer than the model."""


@dataclass(frozen=True)
class Way:
    """Another way to ask a server."""

    target: Target | Rpc | Frames
    is_right: Callable[[bytes], bool]


@dataclass
class Server:
    """A running server. `with` stops it. `target` is where to ask for a prediction."""

    processes: Processes
    target: Target | Rpc | Frames
    is_right: Callable[[bytes], bool]
    management: str = ""
    """The URL of its management API, if it has one."""
    metrics: str = ""
    """The URL of pdserver's metrics."""
    ways: Mapping[str, Way] = field(default_factory=dict)
    """By the names in bench.ways."""

    def by(self, way: str) -> Server:
        """The same server, asked in another way. "" stands for the usual one."""
        if not way:
            return self
        return dataclasses.replace(self, target=self.ways[way].target, is_right=self.ways[way].is_right)

    def __enter__(self) -> Server:
        try:
            self.wait_until_right()
        except BaseException:
            self.processes.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.processes.stop()

    def wait_until_right(self) -> float:
        """Wait until it gives the right answer. Returns the seconds since its start. Raises RuntimeError with its log
        if it never does."""
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            try:
                answer = ask(self.target, timeout_seconds=_READY_SECONDS)
            except OSError as error:
                if time.monotonic() > deadline or not self.processes.running():
                    raise RuntimeError(f"no answer ({error}); its log ends:\n{self.processes.log()}") from None
                time.sleep(0.005)
                continue
            seconds = time.monotonic() - self.processes.started
            if not self.is_right(answer):
                raise WrongAnswer(f"{self.target.url}: {answer[:200]!r}; its log ends:\n{self.processes.log()}")
            return seconds

    def batches(self) -> Batches | None:
        """The batches so far, or None if the server does not say."""
        if not self.metrics:
            return None
        with urllib.request.urlopen(f"{self.metrics}/metrics", timeout=30) as response:
            lines = response.read().decode().splitlines()
        total, count = (
            sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"pd_batch_size_{part}{{"))
            for part in ("sum", "count")
        )
        return Batches(total, count)

    def manage(self, method: str, path: str) -> Any:
        """The parsed answer of the management API. Raises OSError for an error's status."""
        request = urllib.request.Request(self.management + path, method=method)
        with urllib.request.urlopen(request, timeout=_READY_SECONDS) as response:
            return json.loads(response.read())

    def scale(self, model: str, workers: int) -> float:
        """Scale to exactly so many ready workers. Returns the seconds that it took."""
        started = time.monotonic()
        self.manage("PUT", f"/models/{model}?min_worker={workers}&max_worker={workers}&synchronous=true")
        while True:
            (described,) = self.manage("GET", f"/models/{model}")
            if sum(worker["status"] == "READY" for worker in described["workers"]) == workers:
                return time.monotonic() - started
            if time.monotonic() - started > _READY_SECONDS:
                raise RuntimeError(f"no {workers} workers; the log ends:\n{self.processes.log()}")
            time.sleep(0.005)

    def check(self) -> None:
        """Raises WrongAnswer if it no longer gives the right answer."""
        answer = ask(self.target)
        if not self.is_right(answer):
            raise WrongAnswer(f"{self.target.url}: {answer[:200]!r}")


class Peer(Protocol):
    """One server software."""

    name: ClassVar[str]

    def build(self) -> None:
        """Build its environment if it is missing."""

    def version(self) -> str: ...

    def start(self, workload: Workload, configuration: Configuration, folder: Path) -> Server:
        """Start it, with its logs and files in `folder`. Does not wait until it answers."""


def worker_environment(workload: Workload, configuration: Configuration) -> dict[str, str]:
    """Variables for a peer's processes: the model to load, and one thread for libraries that would use all cores."""
    return clean_environment() | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "BENCH_MODEL": workload.name,
        "BENCH_MODEL_FOLDER": str(workload.folder),
        "BENCH_WORKERS": str(configuration.workers),
        "BENCH_BATCH_SIZE": str(configuration.batch_size),
        "BENCH_MAX_BATCH_DELAY_MS": str(configuration.max_batch_delay_ms),
    }
