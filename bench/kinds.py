"""A server's processes by kind: their CPU time, and the cores that they may use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import psutil

from bench.processes import Processes

FRONT_END, MAIN, WORKER = "front end", "main", "worker"
KINDS = (FRONT_END, MAIN, WORKER)
"""`main` is the process that has the engine. Without front ends beside it, it is the front end, too."""
_FRONT_END_MODULE, _NURSERY_MODULE = "pdserver.server.front_end", "pdserver.worker.nursery"


def by_kind(processes: Processes) -> dict[str, list[psutil.Process]]:
    """The processes of a pdserver that are busy when it answers. The parent of the workers is not."""
    main, *others = processes.all() or [processes.first()]
    found: dict[str, list[psutil.Process]] = {FRONT_END: [], MAIN: [main], WORKER: []}
    for process in others:
        with contextlib.suppress(psutil.NoSuchProcess):
            command = " ".join(process.cmdline())
            if _FRONT_END_MODULE in command:
                found[FRONT_END].append(process)
            elif _NURSERY_MODULE in command and process.ppid() != main.pid:
                found[WORKER].append(process)
    return found


def cpu_nanoseconds(process: psutil.Process) -> int:
    """Of all threads, as exact as the scheduler's own figures. A process that has ended counts 0."""
    total = 0
    for thread in _threads(process):
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{process.pid}/task/{thread}/schedstat").read_text().split()[0])
    return total


def cpu_by_kind(processes: Processes) -> dict[str, float]:
    """Seconds so far."""
    return {kind: sum(map(cpu_nanoseconds, found)) / 1e9 for kind, found in by_kind(processes).items()}


def pin(processes: Processes, cores: Mapping[str, tuple[int, ...]]) -> None:
    """Have each process of a kind use one of these cores only, the n-th process the n-th of them, round and round."""
    for kind, found in by_kind(processes).items():
        for number, process in enumerate(found):
            core = cores[kind][number % len(cores[kind])]
            for thread in _threads(process):
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(thread, {core})


def _threads(process: psutil.Process) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(path.name) for path in Path(f"/proc/{process.pid}/task").iterdir()]
    return []
