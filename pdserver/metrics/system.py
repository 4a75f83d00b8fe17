"""Metrics of the machine with TorchServe's names: CPU, memory and disk by psutil, NVIDIA GPUs by nvidia-smi."""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Iterator

import psutil

from pdserver.types import Measured

_log = logging.getLogger("pdserver.metrics")
_MEGABYTE = 1024**2
_GIGABYTE = 1024**3
_NVIDIA_SMI_SECONDS = 10.0
_LEVEL = {"Level": "Host"}


class SystemMetrics:
    """Call `sample` outside the event loop, because disks and drivers may be slow."""

    def __init__(self) -> None:
        self._nvidia_smi = shutil.which("nvidia-smi")
        psutil.cpu_percent()  # the first call only begins the interval

    def sample(self) -> list[Measured]:
        """Gauges, with the share of CPU time since the last call."""
        memory = psutil.virtual_memory()
        disk = psutil.disk_usage("/")
        return [
            _gauge("CPUUtilization", psutil.cpu_percent(), "Percent"),
            _gauge("MemoryUsed", memory.used / _MEGABYTE, "Megabytes"),
            _gauge("MemoryAvailable", memory.available / _MEGABYTE, "Megabytes"),
            _gauge("MemoryUtilization", memory.percent, "Percent"),
            _gauge("DiskUsage", disk.used / _GIGABYTE, "Gigabytes"),
            _gauge("DiskAvailable", disk.free / _GIGABYTE, "Gigabytes"),
            _gauge("DiskUtilization", disk.percent, "Percent"),
            *self._gpus(),
        ]

    def _gpus(self) -> Iterator[Measured]:
        if self._nvidia_smi is None:
            return
        command = [
            self._nvidia_smi,
            "--query-gpu=index,utilization.gpu,memory.used,memory.total",
            "--format=csv,noheader,nounits",
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_NVIDIA_SMI_SECONDS, check=True)
            rows = [[float(field) for field in line.split(",")] for line in done.stdout.splitlines()]
            for index, busy_percent, used, total in rows:
                device = {"DeviceId": str(int(index))}
                yield _gauge("GPUUtilization", busy_percent, "Percent", device)
                yield _gauge("GPUMemoryUsed", used, "Megabytes", device)
                yield _gauge("GPUMemoryUtilization", 100 * used / total, "Percent", device)
        except (OSError, subprocess.SubprocessError, ValueError, ZeroDivisionError) as error:
            _log.warning("no GPU metrics from now on: %s: %s", self._nvidia_smi, error)
            self._nvidia_smi = None


def _gauge(name: str, value: float, unit: str, dimensions: dict[str, str] | None = None) -> Measured:
    return Measured(name, value, unit, "gauge", _LEVEL | (dimensions or {}))
