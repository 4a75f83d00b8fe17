"""The accelerators and CPU cores of this machine, as far as this process may use them."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

_NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")
_CPU_INFO = Path("/proc/cpuinfo")
_CGROUPS, _CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def gpu_count() -> int:
    return len(list(_NVIDIA_GPUS.iterdir())) if _NVIDIA_GPUS.is_dir() else 0


def cpu_flags() -> frozenset[str]:
    """What the CPU can do, as Linux calls it: "avx2", "amx_bf16". Empty where it does not say."""
    return frozenset(_CPU_INFO.read_text().split() if _CPU_INFO.is_file() else ())


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


def _folders(cgroups: Path, cgroup: Path) -> Iterator[Path]:
    """The cgroup's folder and those above it. A container may see its own cgroup as the root, so that is included."""
    with contextlib.suppress(OSError, ValueError):
        for line in cgroup.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or "cpu" in controllers.split(","):
                root = cgroups / "cpu" if controllers else cgroups
                below = root / path.lstrip("/")
                yield from [folder for folder in (below, *below.parents) if folder.is_relative_to(root)]


def _cores(quota: str, period: str) -> int:
    """The quota in cores. Raises ValueError if there is none."""
    cores = int(quota) / int(period)
    if cores <= 0:
        raise ValueError(quota)
    return math.ceil(cores)
