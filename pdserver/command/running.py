"""Servers that run: whether one does, how it is, and its end."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import Any

import psutil

from pdserver.command.foreground import say_served
from pdserver.configuration.server import Config
from pdserver.configuration.values import Address
from pdserver.errors import Conflict
from pdserver.server.status import ask
from pdserver.store.run_directory import PidFile, running_at, state_folder
from pdserver.system.standard_streams import say

FINDING = frozenset({"management_address", "state_location", "stop_timeout"})
"""The keys that find a server and limit its stop. Only these are read then, so that a broken configuration is no
obstacle."""
NOT_RUNNING_STATUS = 3
_POLL_SECONDS = 0.02


def status(config: Config, *, as_json: bool) -> int:
    """Say how the server at this address is. Returns the command's exit status."""
    pid_file, process = _found(config)
    report: dict[str, Any] = {"running": process is not None, "pid": process and process.pid}
    if process is not None:
        report |= ask(pid_file.socket) or {"problems": {"server": "no answer: it starts, ends or hangs"}}
    if as_json:
        say(json.dumps(report, indent=2))
    elif process is None:
        _say_not_running(config, "--status")
    else:
        say(f"{'running':<15} pid {process.pid}")
        say_served(report)
        for what, problem in report["problems"].items():
            say(f"pdserver: {what}: {problem}", error=True)
    if process is None:
        return NOT_RUNNING_STATUS
    return 1 if report["problems"] else 0


def stop(config: Config) -> int:
    """Stop the server at this address and wait for its end. Returns the command's exit status."""
    _, process = _found(config)
    if process is None:
        _say_not_running(config, "--stop")
        return 0
    return end(process, config.stop_timeout_seconds + 10)


def end(process: psutil.Process, patience_seconds: float) -> int:
    """Tell a server to stop, and wait for its end. Returns the command's exit status."""
    deadline = time.monotonic() + patience_seconds
    with contextlib.suppress(psutil.NoSuchProcess):
        process.terminate()
    while not has_ended(process):
        if time.monotonic() > deadline:
            say(f"pdserver: pid {process.pid} has not ended after {patience_seconds:.0f} s", error=True)
            return 1
        time.sleep(_POLL_SECONDS)
    say("pdserver has stopped.")
    return 0


def has_ended(process: psutil.Process) -> bool:
    """Whether the process has ended. A zombie counts: the first process of a container may never reap it."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _found(config: Config) -> tuple[PidFile, psutil.Process | None]:
    """The server at this address. Raises PdError if one answers there that this user's state does not know."""
    state = state_folder(config.state_location, config.xdg_state_home)
    pid_file = PidFile.of(state, config.management_address)
    process = pid_file.process()
    if process is None and _is_answered(config.management_address):
        raise Conflict(
            f"something answers at {config.management_address}, but {state} knows of no server there: run this as the"
            " user, on the host and with the state_location that started it; for a cluster: pdserver cluster status"
        )
    return pid_file, process


def _say_not_running(config: Config, command: str) -> None:
    say(f"pdserver is not running at {config.management_address}.")
    for address in running_at(state_folder(config.state_location, config.xdg_state_home)):
        say(f"One is running at {address}: pdserver {command} --management-address http://{address}")


def _is_answered(address: Address) -> bool:
    try:
        socket.create_connection((address.host, address.port), timeout=1).close()
    except OSError:
        return False
    return True
