"""Machines of a Ray cluster on this one: a process in the background has them, and they end with it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import psutil

from pdserver.errors import Unavailable

_END_SECONDS = 30.0


class LocalMachines(NamedTuple):
    address: str
    """HOST:PORT of the Ray cluster."""
    pid: int
    """Of the process that has them."""
    created: float
    """When that process began, in seconds since 1970."""


def begin(count: int, log: Path, environment: Mapping[str, str]) -> LocalMachines:
    """Returns when all have joined. `log` is for what Ray says. Raises Unavailable when they don't start."""
    ready, its_ready = os.pipe()
    command = [sys.executable, "-m", "pdserver", "cluster", "machines", "--local", str(count)]
    with os.fdopen(ready, "rb") as pipe, log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--ready-fd", str(its_ready)],
            env={**environment, "RAY_USAGE_STATS_ENABLED": "0"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[its_ready],
            start_new_session=True,
        )
        os.close(its_ready)
        try:
            said = pipe.readline()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    if not said:
        raise Unavailable(f"Ray's machines did not start (status {process.wait()}): see {log}")
    return LocalMachines(json.loads(said)["address"], process.pid, psutil.Process(process.pid).create_time())


def process(machines: LocalMachines) -> psutil.Process | None:
    """The process that has them, while it runs."""
    with contextlib.suppress(psutil.NoSuchProcess):
        found = psutil.Process(machines.pid)
        if found.create_time() == machines.created and found.status() != psutil.STATUS_ZOMBIE:
            return found
    return None


def end(machines: LocalMachines) -> None:
    """Idempotent."""
    found = process(machines)
    if found is None:
        return
    family = [found, *found.children(recursive=True)]
    found.terminate()
    _, left = psutil.wait_procs(family, timeout=_END_SECONDS)
    for each in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
