"""The command `pdserver`: start, stop, status, checks."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

from pdarchiver.usage import USAGE_STATUS
from pdserver.cluster import command as cluster
from pdserver.command import foreground, running
from pdserver.configuration import arguments
from pdserver.configuration.loading import is_given, load_config
from pdserver.configuration.server import Config
from pdserver.doctor import command as doctor
from pdserver.errors import ConfigError, PdError
from pdserver.logs.files import FOLDER_MODE, private_opener
from pdserver.serve import command as paddle_serving
from pdserver.serve import marks
from pdserver.system import standard_streams
from pdserver.system.folders import make_folder
from pdserver.system.standard_streams import say
from pdserver.tensorflow_model_server import command as tensorflow_serving
from pdserver.triton import flags as tritons_flags

_INTERRUPTED_STATUS = 128 + signal.SIGINT


def main(argv: list[str] | None = None) -> int:
    standard_streams.ensure()
    given = sys.argv[1:] if argv is None else argv
    try:
        if given[:1] == ["serve"]:
            return paddle_serving.main(given[1:], os.environ)
        if given[:1] == ["doctor"]:
            return doctor.main(given[1:], os.environ)
        if given[:1] == ["optimize"]:
            from pdserver import optimize  # brings the handlers along

            return optimize.main(given[1:])
        if given[:1] == ["cluster"]:
            return cluster.main(given[1:], os.environ)
        if given[:1] == ["tensorflow-model-server"]:
            return tensorflow_serving.main(given[1:], os.environ)
        return _main(given)
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


def _main(given: list[str]) -> int:
    parser = arguments.parser()
    found, unknown = parser.parse_known_args(given)
    if answers := list(tritons_flags.answers(unknown)):
        for answer in answers:
            say(f"pdserver: {answer}", error=True)
        return USAGE_STATUS
    if unknown:
        parser.refuse_unknown(unknown)
    if not given and not is_given(os.environ):
        parser.exit(USAGE_STATUS, f"{parser.format_usage()}\n{arguments.EXAMPLE}\npdserver --help says more\n")
    return _do(found, given)


def _do(found: argparse.Namespace, given: list[str]) -> int:
    overrides = arguments.overrides(found)
    if found.stop or found.status:
        config = load_config(overrides, os.environ, found.pd_config, keys=running.FINDING)
        return running.stop(config) if found.stop else running.status(config, as_json=found.json)
    config = load_config(overrides, os.environ, found.pd_config)
    if found.print_config or found.check_config:
        return _print_config(config) if found.print_config else _check_config(config)
    if found.foreground or foreground.is_first():
        if found.serve_mark is None:
            foreground.serve(config, found.ready_fd, found.life_fd)
        else:  # a web service
            with marks.kept(found.serve_mark):
                foreground.serve(config, must_serve=True)
        return 0
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
    foreground.say_started(report, config)
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


if __name__ == "__main__":
    sys.exit(main())
