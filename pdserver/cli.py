"""The command `pdserver`: start, stop, status, checks."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import psutil

from pdarchiver.usage import USAGE_STATUS
from pdserver.configuration import arguments
from pdserver.configuration.loading import is_given, load_config
from pdserver.configuration.server import Config
from pdserver.configuration.values import Address
from pdserver.errors import ConfigError, Conflict, PdError
from pdserver.logs.files import FOLDER_MODE, private_opener
from pdserver.logs.setup import Logs
from pdserver.server.status import ask
from pdserver.store.run_directory import PidFile, running_at, state_folder
from pdserver.system import standard_streams
from pdserver.system.folders import make_folder
from pdserver.system.standard_streams import say
from pdserver.triton import flags as tritons_flags

_POLL_SECONDS = 0.02
_INTERRUPTED_STATUS = 128 + signal.SIGINT
_NOT_RUNNING_STATUS = 3
_FINDING = frozenset({"management_address", "state_location", "stop_timeout"})
"""The keys that find a server and limit its stop. Only these are read then, so that a broken configuration is no
obstacle."""


def main(argv: list[str] | None = None) -> int:
    standard_streams.ensure()
    given = sys.argv[1:] if argv is None else argv
    parser = arguments.parser()
    found, unknown = parser.parse_known_args(given)
    if answers := list(tritons_flags.answers(unknown)):
        for answer in answers:
            say(f"pdserver: {answer}", error=True)
        return USAGE_STATUS
    if unknown:
        parser.refuse_unknown(unknown)
    try:
        if not given and not is_given(os.environ):
            parser.exit(USAGE_STATUS, f"{parser.format_usage()}\n{arguments.EXAMPLE}\npdserver --help says more\n")
        return _do(found, given)
    except ConfigError as error:
        for line in str(error).splitlines():
            say(f"pdserver: {line}", error=True)
        return USAGE_STATUS
    except PdError as error:
        say(f"pdserver: {error}", error=True)
        return 1
    except KeyboardInterrupt:  # Ctrl-C before there is a server
        say("pdserver: interrupted", error=True)
        return _INTERRUPTED_STATUS


def _do(found: argparse.Namespace, given: list[str]) -> int:
    overrides = arguments.overrides(found)
    if found.stop or found.status:
        config = load_config(overrides, os.environ, found.pd_config, keys=_FINDING)
        return _stop(config) if found.stop else _status(config, as_json=found.json)
    config = load_config(overrides, os.environ, found.pd_config)
    if found.print_config or found.check_config:
        return _print_config(config) if found.print_config else _check_config(config)
    if found.foreground:
        return _serve(config, found.ready_fd)
    return _start(config, given)


def _print_config(config: Config) -> int:
    from pdserver.server import reports

    for line in reports.printed(config):
        say(line)
    return 0


def _check_config(config: Config) -> int:
    from pdserver.server import reports

    for warning in config.warnings:
        say(f"pdserver: warning: {warning}", error=True)
    problems = list(reports.problems(config))
    for problem in problems:
        say(f"pdserver: {problem}", error=True)
    if problems:
        return USAGE_STATUS
    say("ok")
    return 0


def _serve(config: Config, ready_fd: int) -> int:
    """Serve in the foreground until told to stop."""
    from pdserver.server.main import (  # imported only here, which halves the time of the other commands
        Server,
        Started,
    )

    starter = _Starter(ready_fd)

    def ready(started: Started) -> None:
        report = msgspec.to_builtins(started)
        starter.tell(report)
        starter.close()
        _say_started(report, config)

    async def run() -> None:
        for warning in config.warnings:
            logging.getLogger("pdserver.config").warning("%s", warning)
        await Server(config).run(ready, lambda text: starter.tell({"progress": text}))

    try:
        with Logs(config, terminal=ready_fd < 0):
            _run(run())
    except PdError as error:
        starter.tell({"error": str(error), "status": USAGE_STATUS if isinstance(error, ConfigError) else 1})
        raise
    return 0


class _Starter:
    """The process that started this one in the background and waits for its report. It may leave at any time."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        if fd >= 0:
            os.set_inheritable(fd, False)

    def tell(self, message: Mapping[str, object]) -> None:
        if self._fd >= 0:
            try:
                os.write(self._fd, json.dumps(message).encode() + b"\n")
            except OSError:
                self.close()

    def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _say_started(report: Mapping[str, Any], config: Config) -> None:
    _say_served(report)
    if report["restored"]:
        say(
            f"The models are those of the last snapshot in {config.snapshot_folder}, since nothing else says what to"
            " serve; --no-config-snapshots starts without."
        )
    elif not (report["models"] or report["problems"]):
        say("No models are served yet: name archives with --models, or register them at the management address.")
    say("Model server started.")


def _say_served(report: Mapping[str, Any]) -> None:
    for name, address in report.get("addresses", {}).items():
        say(f"{name:<15} {address}")
    for model, workers in report.get("models", {}).items():
        say(f"{'model':<15} {model}, {workers} worker{'s' if workers != 1 else ''}")
    if "logs" in report:
        say(f"{'logs':<15} {report['logs']}")


def _run(main: object) -> None:
    try:
        import uvloop
    except ImportError:  # uvloop does not exist for every system
        asyncio.run(main)  # type: ignore[arg-type]
    else:
        uvloop.run(main)


def _start(config: Config, argv: list[str]) -> int:
    """Start the server in the background. Returns when it is ready, or has said why it is not."""
    output_path = config.log_location / "pdserver.out"  # for what bypasses the logs: a crash, a library's own output
    output = _output(output_path)
    ready_read, ready_write = os.pipe()
    command = [sys.executable, "-m", "pdserver", *argv, "--foreground", "--ready-fd", str(ready_write)]
    with output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[ready_write],
            start_new_session=True,
        )
    os.close(ready_write)
    with os.fdopen(ready_read, "rb") as pipe:
        try:
            report = _awaited(pipe)
        except KeyboardInterrupt:
            return _interrupted(process)
    if report is None:
        say(
            f"pdserver: the server ended with status {process.wait()}; see {output_path} and pdserver.log",
            error=True,
        )
        return 1
    if "error" in report:
        for line in report["error"].splitlines():
            say(f"pdserver: {line}", error=True)
        return int(report["status"])
    _say_started(report, config)
    for model, problem in report["problems"].items():
        say(f"pdserver: {model} is not served: {problem}", error=True)
    if report["problems"]:
        say(
            f"pdserver: the server runs (pid {process.pid}) with what could be loaded; logs: {config.log_location}",
            error=True,
        )
        return 1
    return 0


def _awaited(pipe: BinaryIO) -> dict[str, Any] | None:
    """The report of the start, or None if the server has ended without one. Shows the progress on a terminal."""
    shows = sys.stdout.isatty()
    if shows:
        say("Starting…")
    for line in pipe:
        report: dict[str, Any] = json.loads(line)
        if "progress" not in report:
            return report
        if shows:
            say(report["progress"])
    return None


def _interrupted(process: subprocess.Popen[bytes]) -> int:
    """End the server after Ctrl-C during its start."""
    process.terminate()
    try:
        process.wait()
    except KeyboardInterrupt:
        process.kill()
        process.wait()
    say("pdserver: interrupted; the server has ended", error=True)
    return _INTERRUPTED_STATUS


def _output(path: Path) -> BinaryIO:
    """Open the file for the server's output. Raises ConfigError."""
    try:
        make_folder(path.parent, FOLDER_MODE)
        return open(path, "ab", opener=private_opener)
    except OSError as error:
        raise ConfigError(
            f"log_location={path.parent}: {error.strerror}: name a folder that this user may write to"
        ) from None


def _found(config: Config) -> tuple[PidFile, psutil.Process | None]:
    """The server at this address. Raises PdError if one answers there that this user's state does not know."""
    state = state_folder(config.state_location, config.xdg_state_home)
    pid_file = PidFile.of(state, config.management_address)
    process = pid_file.process()
    if process is None and _is_answered(config.management_address):
        raise Conflict(
            f"something answers at {config.management_address}, but {state} knows of no server there: run this as the"
            " user, on the host and with the state_location that started it"
        )
    return pid_file, process


def _say_not_running(config: Config, command: str) -> None:
    say(f"pdserver is not running at {config.management_address}.")
    for address in running_at(state_folder(config.state_location, config.xdg_state_home)):
        say(f"One is running at {address}: pdserver {command} --management-address http://{address}")


def _status(config: Config, *, as_json: bool) -> int:
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
        _say_served(report)
        for what, problem in report["problems"].items():
            say(f"pdserver: {what}: {problem}", error=True)
    if process is None:
        return _NOT_RUNNING_STATUS
    return 1 if report["problems"] else 0


def _stop(config: Config) -> int:
    _, process = _found(config)
    if process is None:
        _say_not_running(config, "--stop")
        return 0
    patience = config.stop_timeout_seconds + 10
    deadline = time.monotonic() + patience
    with contextlib.suppress(psutil.NoSuchProcess):
        process.terminate()
    while not _has_ended(process):
        if time.monotonic() > deadline:
            say(f"pdserver: pid {process.pid} has not ended after {patience:.0f} s", error=True)
            return 1
        time.sleep(_POLL_SECONDS)
    say("pdserver has stopped.")
    return 0


def _is_answered(address: Address) -> bool:
    try:
        socket.create_connection((address.host, address.port), timeout=1).close()
    except OSError:
        return False
    return True


def _has_ended(process: psutil.Process) -> bool:
    """Whether the process has ended. A zombie counts: the first process of a container may never reap it."""

    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


if __name__ == "__main__":
    sys.exit(main())
