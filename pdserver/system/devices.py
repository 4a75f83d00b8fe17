"""The accelerators and CPU cores of this machine, as far as this process may use them."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

_NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")
_CPU_INFO = Path("/proc/cpuinfo")
_CGROUPS, _CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def gpu_count() -> int:
    return len(list(_NVIDIA_GPUS.iterdir())) if _NVIDIA_GPUS.is_dir() else 0


def cpu_flags() -> frozenset[str]:
    """What the CPU can do, as Linux calls it: "avx2", "amx_bf16". Empty where it does not say."""
    return frozenset(_CPU_INFO.read_text().split() if _CPU_INFO.is_file() else ())


class Memory(NamedTuple):
    total_bytes: int
    free_bytes: int


def memory(cgroups: Path = _CGROUPS, cgroup: Path = _CGROUP) -> Memory:
    """The machine's memory, as far as the cgroup and those above it may use it, and what of it is left."""
    machine = psutil.virtual_memory()
    total, free = [machine.total], [machine.available]
    for folder in _folders(cgroups, cgroup, "memory"):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            with contextlib.suppress(OSError, ValueError):  # "max" means that there is no limit
                most = int((folder / limit).read_text())
                total.append(most)
                free.append(max(0, most - int((folder / used).read_text()) + _reclaimable(folder)))
    return Memory(min(total), min(free))


def _reclaimable(folder: Path) -> int:
    """Bytes of files in memory that the kernel drops when it needs the room."""
    with contextlib.suppress(OSError, ValueError):
        fields = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(fields.get("total_inactive_file") or fields.get("inactive_file") or 0)
    return 0


def core_count(cgroups: Path = _CGROUPS, cgroup: Path = _CGROUP) -> int:
    """CPU cores that this process may run on, at most its cgroup's CPU quota."""
    return min([len(os.sched_getaffinity(0)), *_quotas(cgroups, cgroup)])


def _quotas(cgroups: Path, cgroup: Path) -> Iterator[int]:
    """The quotas of the cgroup and those above it, in cores. `cgroups` is where they are mounted, `cgroup` is the file
    that names this process's own."""
    for folder in _folders(cgroups, cgroup):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # "max" means that there is no quota
            quota, period = (folder / "cpu.max").read_text().split()
            yield _cores(quota, period)
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = ((folder / f"cpu.cfs_{what}_us").read_text() for what in ("quota", "period"))
            yield _cores(quota, period)


def _folders(cgroups: Path, cgroup: Path, controller: str = "cpu") -> Iterator[Path]:
    """The cgroup's folder and those above it. A container may see its own cgroup as the root, so that is included."""
    with contextlib.suppress(OSError, ValueError):
        for line in cgroup.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or controller in controllers.split(","):
                root = cgroups / controller if controllers else cgroups
                below = root / path.lstrip("/")
                yield from [folder for folder in (below, *below.parents) if folder.is_relative_to(root)]


def _cores(quota: str, period: str) -> int:
    """The quota in cores. Raises ValueError if there is none."""
    cores = int(quota) / int(period)
    if cores <= 0:
        raise ValueError(quota)
    return math.ceil(cores)
