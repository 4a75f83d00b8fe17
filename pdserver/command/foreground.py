"""Runs a server in this process, and tells what came of its start."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import Mapping
from typing import Any

import msgspec

from pdarchiver.usage import USAGE_STATUS
from pdserver.command import first_process
from pdserver.configuration.server import Config
from pdserver.errors import ConfigError, LoadFailed, PdError
from pdserver.logs.setup import Logs
from pdserver.system import event_loop
from pdserver.system.standard_streams import say


def serve(config: Config, ready_fd: int = -1, life_fd: int = -1, *, must_serve: bool = False) -> None:
    """Serve until told to stop. `ready_fd` is a pipe to the process that started this one and waits for a report, or
    -1. `life_fd` is a pipe that nobody writes to: at its end, the process that holds the other end has ended, and this
    one stops as at SIGTERM; or -1. `must_serve`: nobody will register other models than those of the start, so the
    server ends if none of them can be served. Raises PdError if the server can't start.

    As the first process of a container, this one does that one's duties, and a child serves."""
    if is_first():
        first_process.take_its_duties()
    from pdserver.server.main import (  # imported only here, which halves the time of the other commands
        Server,
        Started,
    )

    starter = _Starter(ready_fd)

    def ready(started: Started) -> None:
        if must_serve and not started.models:
            why = "; ".join(f"{model}: {problem}" for model, problem in started.problems.items())
            raise LoadFailed(f"nothing is served, so the server ends: {why}")
        report = msgspec.to_builtins(started)
        starter.tell(report)
        starter.close()
        say_started(report, config)

    async def run() -> None:
        if life_fd >= 0:
            _stop_at_end_of(life_fd)
        for warning in config.warnings:
            logging.getLogger("pdserver.config").warning("%s", warning)
        await Server(config).run(ready, lambda text: starter.tell({"progress": text}))

    try:
        with Logs(config, terminal=ready_fd < 0):
            event_loop.run(run())
    except PdError as error:
        starter.tell({"error": str(error), "status": USAGE_STATUS if isinstance(error, ConfigError) else 1})
        raise


def is_first() -> bool:
    """Whether this is the first process of a container, which ends with it."""
    return os.getpid() == 1


def _stop_at_end_of(pipe: int) -> None:
    loop = asyncio.get_running_loop()
    os.set_inheritable(pipe, False)

    def stop() -> None:
        loop.remove_reader(pipe)
        signal.raise_signal(signal.SIGTERM)

    loop.add_reader(pipe, stop)


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


def say_started(report: Mapping[str, Any], config: Config) -> None:
    """`report` is a `Started` as JSON has it."""
    say_served(report)
    if report["restored"]:
        say(
            f"The models are those of the last snapshot in {config.snapshot_folder}, since nothing else says what to"
            " serve; --no-config-snapshots starts without."
        )
    elif not (report["models"] or report["problems"]):
        say("No models are served yet: name archives with --models, or register them at the management address.")
    for model, problem in report["problems"].items():
        say(f"pdserver: {model} is not served: {problem}", error=True)
    if report["problems"] and not report["models"]:
        say("pdserver: the server runs, but no model is served", error=True)
    say("Model server started.")


def say_served(report: Mapping[str, Any]) -> None:
    for name, address in report.get("addresses", {}).items():
        say(f"{name:<15} {address}")
    for each in report.get("front_ends", ()):
        process = f"pid {each['pid']}" if each["alive"] else "is being started"
        again = each["restarts"]
        say(f"{'front end':<15} {each['number']}, {process}, {again} restart{'s' if again != 1 else ''}")
    engines = report.get("engines", {})
    for model, workers in report.get("models", {}).items():
        engine = f", {engines[model]}" if model in engines else ""
        say(f"{'model':<15} {model}, {workers} worker{'s' if workers != 1 else ''}{engine}")
    if "logs" in report:
        say(f"{'logs':<15} {report['logs']}")
