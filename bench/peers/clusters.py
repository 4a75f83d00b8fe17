"""Clusters on one machine, all of their nodes on it: ours, and Ray Serve's."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Protocol

import psutil

from bench.environments import RAY
from bench.load import Target, ask
from bench.paths import ROOT
from bench.peers.base import Configuration, WrongAnswer, worker_environment
from bench.peers.ours import PROGRAM, pack, settings_of
from bench.processes import Processes, clean_environment, free_ports
from bench.workloads import Workload

_READY_SECONDS, _COMMAND_SECONDS = 120.0, 240.0
_RAY_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0"}


@dataclass
class RunningCluster:
    """`with` waits until it answers, and ends it."""

    target: Target
    is_right: Callable[[bytes], bool]
    processes: Callable[[], list[psutil.Process]]
    """All that it consists of."""
    stop: Callable[[], None]
    log_file: Path
    management: str = ""
    """URL."""

    def __enter__(self) -> RunningCluster:
        try:
            self._wait_until_right()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop()

    def _wait_until_right(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            try:
                self.check()
                return
            except OSError as error:
                if time.monotonic() > deadline or not self.processes():
                    log = self.log_file.read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"no answer ({error}); its log ends:\n{log}") from None
                time.sleep(0.2)

    def check(self) -> None:
        """Raises OSError without an answer, WrongAnswer for a wrong one."""
        answer = ask(self.target)
        if not self.is_right(answer):
            raise WrongAnswer(f"{self.target.url}: {answer[:200]!r}")


class ClusterPeer(Protocol):
    name: ClassVar[str]
    configurations: ClassVar[tuple[str, ...]]
    """Ways to run it."""

    def build(self) -> None: ...

    def version(self) -> str: ...

    def start(self, workload: Workload, nodes: int, batch_size: int, way: str, folder: Path) -> RunningCluster:
        """With one worker on each node."""


class OurCluster:
    """`pdserver cluster start --local`, asked at its HAProxy."""

    name: ClassVar[str] = "pdserver"
    configurations: ClassVar[tuple[str, ...]] = ("HAProxy",)

    def build(self) -> None:
        """Do nothing: the comparison runs in its environment."""

    def version(self) -> str:
        return f"{metadata.version('pdserver')} with Ray {metadata.version('ray')}"

    def start(self, workload: Workload, nodes: int, batch_size: int, way: str, folder: Path) -> RunningCluster:
        properties, addresses = settings_of(pack(workload, Configuration(batch_size)), f"{workload.name}.pdar")
        state = folder / "state"
        config, log = folder / "config.properties", folder / "start.log"
        text = "".join(f"{key}={value}\n" for key, value in {**properties, "state_location": str(state)}.items())
        config.write_text(text)
        flags = ["--pd-config", str(config)]

        def stop() -> None:
            family = _family(state)
            try:
                _run(["stop", *flags], folder, folder / "stop.log")
            finally:
                _kill(family)

        try:
            _run(["start", "--local", str(nodes), "--copies", str(nodes), *flags], folder, log)
        except BaseException:
            _kill(_family(state))
            raise
        target = Target(
            f"{addresses['inference']}/predictions/{workload.name}", workload.request_file, workload.content_type
        )
        return RunningCluster(target, workload.is_right, lambda: _family(state), stop, log, addresses["management"])


class RayServeCluster:
    """Ray Serve with a replica on each node, its proxy on the first one."""

    name: ClassVar[str] = "Ray Serve"
    configurations: ClassVar[tuple[str, ...]] = ("HAProxy, for throughput", "its own proxy")

    def build(self) -> None:
        RAY.build()

    def version(self) -> str:
        return RAY.version("ray")

    def start(self, workload: Workload, nodes: int, batch_size: int, way: str, folder: Path) -> RunningCluster:
        (port,) = free_ports(1)
        command = [RAY.python, "-W", "ignore", str(ROOT / "bench" / "serving" / "model_ray.py")]
        modes = str(int(way == self.configurations[0]))
        settings = {"RAY_SERVE_ENABLE_HA_PROXY": modes, "RAY_SERVE_THROUGHPUT_OPTIMIZED": modes}
        environment = worker_environment(workload, Configuration(batch_size)) | _RAY_SETTINGS | settings
        processes = Processes([*command, str(port), str(nodes), str(batch_size)], folder, environment)
        target = Target(f"http://127.0.0.1:{port}/", workload.request_file, workload.content_type)

        def stop() -> None:
            family = processes.all()
            try:
                processes.stop()
            finally:
                _kill(family)

        return RunningCluster(target, workload.is_right, processes.all, stop, processes.log_file)


def _run(arguments: list[str], folder: Path, log: Path) -> None:
    """Raises RuntimeError with what the command says, if it fails."""
    with log.open("w") as output:
        done = subprocess.run(
            [*PROGRAM, "cluster", *arguments],
            cwd=folder,
            env=clean_environment() | _RAY_SETTINGS,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            timeout=_COMMAND_SECONDS,
        )
    if done.returncode:
        raise RuntimeError(f"pdserver cluster {arguments[0]} failed ({done.returncode}): {log.read_text()[-2000:]}")


def _family(state: Path) -> list[psutil.Process]:
    """The process that has the machines, and all below it."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, psutil.NoSuchProcess):
        _, pid, _ = json.loads((state / "cluster" / "cluster.json").read_text())["machines"]
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    return []


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, 10)
