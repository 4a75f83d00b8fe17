"""The command `pdserver serve`: start, stop, kill, check."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from pdserver.command import foreground, running
from pdserver.configuration.loading import load_config
from pdserver.configuration.server import Config
from pdserver.doctor import command as doctor
from pdserver.errors import ConfigError, Conflict
from pdserver.serve import flags, marks, models, settings
from pdserver.store.run_directory import PidFile, state_folder
from pdserver.system.devices import core_count
from pdserver.system.folders import make_folder
from pdserver.system.standard_streams import say

_KILL_SECONDS = 10.0


def main(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """Returns the exit status. Raises PdError."""
    parser = flags.parser()
    found = parser.parse_args(argv)
    if found.command == "check":
        return doctor.main([], environment, settings.keys(found, found.port or flags.DEFAULT_PORT, _said(environment)))
    if found.command in ("stop", "kill"):
        return _end(found, environment)
    if not found.model:
        parser.error("--model: name the folder of the model to serve, such as --model serving_server")
    return _start(found, environment)


def _start(found: argparse.Namespace, environment: Mapping[str, str]) -> int:
    """Serve in the foreground until told to stop."""
    port = found.port or flags.DEFAULT_PORT
    said = _said(environment)
    name = models.name_of(found.model, found.name)
    run = settings.running(found, core_count())
    mark = marks.path(_state(said), port)
    if process := _pid_file(said, port).process():
        raise Conflict(
            f"--port {port}: a server runs there already (pid {process.pid}): pdserver serve stop --port {port}"
        )
    store = (Path(f"{found.workdir}_{port}").absolute() if found.workdir else mark) / "models-served"
    models.remove(store)
    with marks.kept(mark):
        try:
            _make(store)
            models.lay_out(found.model, name, run.config, store)
            wanted = {"model_store": str(store), "load_models": name}
            config = load_config(settings.keys(found, port, said) | wanted, environment)
            if useless := [*flags.without_meaning(found), *settings.lost_precision(found)]:
                say(f"pdserver: warning: without a meaning here, ignored: {', '.join(useless)}", error=True)
            say(f"{'workers':<15} {run.chosen}")
            foreground.serve(config, must_serve=not config.use_encryption_model)  # a client may bring the key later
        finally:
            models.remove(store)
    return 0


def _make(folder: Path) -> None:
    """Raises ConfigError."""
    try:
        make_folder(folder, 0o700)
    except OSError as error:
        raise ConfigError(f"--workdir: {folder}: {error.strerror}: name a folder that this user may write to") from None


def _end(found: argparse.Namespace, environment: Mapping[str, str]) -> int:
    """Stop or kill the server with this port, or all that `serve` and web services have started."""
    said = _said(environment)
    ports = [found.port] if found.port else list(marks.ports(_state(said)))
    servers = [(port, process) for port in ports if (process := _pid_file(said, port).process())]
    if not servers:
        where = f" with --port {found.port}" if found.port else ""
        say(f"no server that serve or a web service has started is running{where}")
    status = 0
    for port, process in servers:
        say(f"{'port':<15} {port}, pid {process.pid}")
        status |= _kill(process) if found.command == "kill" else running.end(process, said.stop_timeout_seconds + 10)
    return status


def _kill(process: psutil.Process) -> int:
    family = [process]
    with contextlib.suppress(psutil.NoSuchProcess):
        family += process.children(recursive=True)
    for each in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    _, alive = psutil.wait_procs(family, timeout=_KILL_SECONDS)
    left = [each.pid for each in alive if not running.has_ended(each)]
    say(f"pdserver: {left} have not ended" if left else "pdserver was killed.", error=bool(left))
    return 1 if left else 0


def _said(environment: Mapping[str, str]) -> Config:
    """What the operator's configuration says, as far as it matters here."""
    return load_config({}, environment, keys=running.FINDING | settings.READ_KEYS)


def _state(said: Config) -> Path:
    return state_folder(said.state_location, said.xdg_state_home)


def _pid_file(said: Config, port: int) -> PidFile:
    return PidFile.of(_state(said), settings.addresses(port, said)[1])
