"""Machines of a Ray cluster on this one: a process in the background has them, and they end with it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import NamedTuple

import psutil

from pdserver.configuration.tokens import new_token
from pdserver.errors import Unavailable
from pdserver.system.folders import make_folder

MACHINES = "machines"
"""What the command is told in the process that has them; for nobody else to say."""
_END_SECONDS = 30.0
_TOKEN_FILE = "ray-token"  # noqa: S105


class LocalMachines(NamedTuple):
    address: str
    """HOST:PORT of the Ray cluster."""
    pid: int
    """Of the process that has them."""
    created: float
    """When that process began, in seconds since 1970."""


def authenticate(environment: MutableMapping[str, str], own: Path | None) -> None:
    """Have Ray, before it is imported, prove that it is this user: by the token in the folder `own` of local machines,
    or by the user's own one if there is one. Whoever reaches a Ray cluster without tokens can run code on it."""
    if own is not None:
        environment.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(own / _TOKEN_FILE)})
    elif (Path.home() / ".ray" / "auth_token").is_file():
        environment.setdefault("RAY_AUTH_MODE", "token")


def begin(count: int, folder: Path, environment: Mapping[str, str]) -> LocalMachines:
    """Returns when all have joined. What Ray says is in `folder`, with the token that it needs. Raises Unavailable when
    they don't start."""
    log = folder / "ray.log"
    make_folder(folder, 0o700)
    with open(folder / _TOKEN_FILE, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(new_token())
    ready, its_ready = os.pipe()
    command = [sys.executable, "-m", "pdserver", "cluster", MACHINES, str(count), str(its_ready)]
    with os.fdopen(ready, "rb") as pipe, log.open("wb") as output:
        process = subprocess.Popen(
            command,
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
