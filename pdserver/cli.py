"""`pdserver`: start, stop, and what went wrong."""

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

from pdserver import __version__, standard_streams
from pdserver.config import KEYS, Config, load_config
from pdserver.config_values import Address, truth, truth_if_any
from pdserver.errors import ConfigError, PdError
from pdserver.folders import make_folder
from pdserver.log_files import FOLDER_MODE, private_opener
from pdserver.logs import Logs
from pdserver.run_directory import PidFile, running_at, state_folder
from pdserver.standard_streams import say
from pdserver.triton import flags as tritons_flags

_USAGE_STATUS = 2
_POLL_SECONDS = 0.02
_INTERRUPTED_STATUS = 128 + signal.SIGINT
_FINDING = frozenset({"management_address", "state_location", "stop_timeout"})
"""What says which server is meant, and how long its end may take; with other keys, much may be wrong by then."""
_IGNORED_FLAGS = {
    "workflow_store": (["--workflow-store"], "workflows are not served"),
    "plugins_path": (["--plugins-path", "--ppath"], "plugins are Python packages: docs/operating.md"),
    "cpp_log_config": (["--cpp-log-config"], "there is no C++ backend"),
}
"""TorchServe's, by the key that each would set, with why it has no effect."""
_OTHER_FLAGS = {"disable_token_authorization": ["--dt"]}
_EXAMPLE = """\
example:
  pdserver --start --model-store model_store --models digits.pdar
  curl http://127.0.0.1:8080/predictions/digits -T digit.png
  pdserver --stop

Every key of config.properties has a flag; docs/configuration.md explains them.
"""


def main(argv: list[str] | None = None) -> int:
    standard_streams.ensure()
    parser = _parser()
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        return _refuse(parser, unknown)
    overrides = {
        key: ",".join(value) if isinstance(value, list) else value
        for key in (*KEYS, *_IGNORED_FLAGS)
        if (value := getattr(arguments, key)) is not None
    }
    try:
        if arguments.stop:
            return _stop(load_config(overrides, os.environ, arguments.pd_config, keys=_FINDING))
        config = load_config(overrides, os.environ, arguments.pd_config)
        if arguments.foreground:
            return _serve(config, arguments.ready_fd)
        return _start(config, sys.argv[1:] if argv is None else argv)
    except ConfigError as error:
        for line in str(error).splitlines():
            say(f"pdserver: {line}", error=True)
        return _USAGE_STATUS
    except PdError as error:
        say(f"pdserver: {error}", error=True)
        return 1


def _refuse(parser: argparse.ArgumentParser, arguments: list[str]) -> int:
    """Triton's flags are answered with the name of ours, any other with the usage."""
    answers = list(tritons_flags.answers(arguments))
    if not answers:
        parser.error(f"unrecognized arguments: {' '.join(arguments)}")
    for answer in answers:
        say(f"pdserver: {answer}", error=True)
    return _USAGE_STATUS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pdserver",
        description="Serve PaddlePaddle models: many models, one port, dynamic batching, supervised workers.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--start", action="store_true", help="start in the background and return when ready (the default)"
    )
    what.add_argument(
        "--stop", action="store_true", help="stop the server with this configuration, and wait for its end"
    )
    what.add_argument("-v", "--version", action="version", version=f"pdserver {__version__}")
    parser.add_argument("--foreground", action="store_true", help="start in the foreground, logging to the terminal")
    parser.add_argument(
        "--pd-config", "--ts-config", type=Path, metavar="FILE", help="config.properties; default: ./config.properties"
    )
    parser.add_argument("--ready-fd", type=int, default=-1, help=argparse.SUPPRESS)
    keys = parser.add_argument_group("configuration")
    for key in KEYS.values():
        several: dict[str, Any] = {}
        if key.name == "load_models":
            several = {"nargs": "+"}
        elif key.name in ("model_repository", "load_model", "http_restricted_api", "grpc_restricted_protocol"):
            several = {"action": "append"}
        elif key.parser in (truth, truth_if_any):
            several = {"nargs": "?", "const": "true"}
        default = f" [{key.default}]" if key.default else ""
        text = (key.help + default).replace("%", "%%")
        flags = [key.flag, *_OTHER_FLAGS.get(key.name, [])]
        keys.add_argument(*flags, dest=key.name, metavar=_metavar(key.name), help=text, **several)
    keys.add_argument(
        *("--no-config-snapshots", "--ncs"),
        dest="config_snapshots",
        action="store_const",
        const="false",
        help="neither write snapshots nor serve from them: --config-snapshots false",
    )
    _add_ignored(parser.add_argument_group("accepted from TorchServe, without effect"))
    return parser


def _add_ignored(group: argparse._ArgumentGroup) -> None:
    for key, (flags, why) in _IGNORED_FLAGS.items():
        group.add_argument(*flags, dest=key, metavar="PATH", help=why)


def _metavar(key: str) -> str:
    return "ARCHIVE" if key == "load_models" else key.rsplit("_", 1)[-1].upper()


def _serve(config: Config, ready_fd: int) -> int:
    """In the foreground, until told to stop."""
    from pdserver.server import Server, Started  # only here: the other words of the command are said in half the time

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
        starter.tell({"error": str(error), "status": _USAGE_STATUS if isinstance(error, ConfigError) else 1})
        raise
    return 0


class _Starter:
    """The process that started this one in the background and waits for what becomes of it. It may leave any time."""

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
    for name, address in report["addresses"].items():
        say(f"{name:<15} {address}")
    for model, workers in report["models"].items():
        say(f"{'model':<15} {model}, {workers} worker{'s' if workers != 1 else ''}")
    say(f"{'logs':<15} {config.log_location}")
    if report["restored"]:
        say(
            f"The models are those of the last snapshot in {config.snapshot_folder}, since nothing else says what to"
            " serve; --no-config-snapshots starts without."
        )
    elif not (report["models"] or report["problems"]):
        say("No models are served yet: name archives with --models, or register them at the management address.")
    say("Model server started.")


def _run(main: object) -> None:
    try:
        import uvloop
    except ImportError:  # not to be had on every system
        asyncio.run(main)  # type: ignore[arg-type]
    else:
        uvloop.run(main)


def _start(config: Config, argv: list[str]) -> int:
    """In the background; returns when the server is ready, or has said why it is not."""
    output_path = config.log_location / "pdserver.out"  # what comes past the logs: a crash, a library's own words
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
    """What became of the start; None when the server has ended without a word. On a terminal, its progress is shown."""
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
    """Ctrl-C: whoever starts it wants it no more."""
    process.terminate()
    try:
        process.wait()
    except KeyboardInterrupt:
        process.kill()
        process.wait()
    say("pdserver: interrupted; the server has ended", error=True)
    return _INTERRUPTED_STATUS


def _output(path: Path) -> BinaryIO:
    """Raises ConfigError."""
    try:
        make_folder(path.parent, FOLDER_MODE)
        return open(path, "ab", opener=private_opener)
    except OSError as error:
        raise ConfigError(
            f"log_location={path.parent}: {error.strerror}: name a folder that this user may write to"
        ) from None


def _stop(config: Config) -> int:
    state = state_folder(config.state_location, config.xdg_state_home)
    process = PidFile.of(state, config.management_address).process()
    if process is None and _is_answered(config.management_address):
        say(
            f"pdserver: something answers at {config.management_address}, but {state} knows of no server there:"
            " stop it as the user, on the host and with the state_location that started it",
            error=True,
        )
        return 1
    if process is None:
        say(f"pdserver is not running at {config.management_address}.")
        for address in running_at(state):
            say(f"One is running at {address}: pdserver --stop --management-address http://{address}")
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
    """Whether or not somebody has asked for its status: the first process of a container may never do so."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


if __name__ == "__main__":
    sys.exit(main())
