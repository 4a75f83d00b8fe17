"""The command `tensorflow_model_server`: a server in the foreground."""

from __future__ import annotations

import argparse
import shutil
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from pdserver import __version__
from pdserver.command import foreground, running
from pdserver.configuration.loading import load_config
from pdserver.configuration.server import Config
from pdserver.errors import ConfigError, Conflict
from pdserver.security.listening import is_loopback
from pdserver.store.run_directory import PidFile, state_folder
from pdserver.system.folders import make_folder
from pdserver.system.standard_streams import say
from pdserver.tensorflow_model_server import certificate, flags, script, settings


def main(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """Returns the exit status. Raises PdError."""
    found = flags.parser().parse_args(flags.plain(argv))
    if found.version:
        say(f"pdserver {__version__}, with TensorFlow Serving's command line")
    elif found.install_script:
        say(f"{script.install(found.install_script)} starts this installation")
    else:
        _start(found, environment)
    return 0


def _start(found: argparse.Namespace, environment: Mapping[str, str]) -> None:
    """Serve in the foreground until told to stop."""
    said = load_config({}, environment, keys=running.FINDING | settings.READ_KEYS)
    places = settings.Places(found, said)
    overrides = settings.keys(found, said)
    one_model = "" if found.model_config_file else settings.one_model(found, environment)
    if found.model_config_file and not Path(found.model_config_file).exists():
        raise ConfigError(f"--model_config_file={found.model_config_file}: no such file")
    state = state_folder(said.state_location, said.xdg_state_home)
    if process := PidFile.of(state, places.management).process():
        raise Conflict(f"--port={places.main_port}: a server runs there already (pid {process.pid}): name another")
    own = _own_folder(state / f"tensorflow-model-server-{socket.gethostname()}-{places.main_port}")
    try:
        if found.ssl_config_file:
            overrides |= certificate.keys(found.ssl_config_file, own)
        overrides |= places.keys(tls=bool(found.ssl_config_file))
        overrides["tensorflow_model_config"] = found.model_config_file or _write(own / "model.config", one_model)
        config = load_config(overrides, environment)
        _say_what_differs(found, config)
        foreground.serve(config)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _own_folder(path: Path) -> Path:
    """An empty folder that is there while the server runs. Raises ConfigError."""
    shutil.rmtree(path, ignore_errors=True)  # a killed server's
    try:
        make_folder(path, 0o700)
    except OSError as error:
        raise ConfigError(f"state_location={path.parent}: {error.strerror}: name another folder") from None
    return path


def _write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def _say_what_differs(found: argparse.Namespace, config: Config) -> None:
    useless = list(flags.without_meaning(found))
    if found.ssl_config_file and certificate.has_unused_authority(found.ssl_config_file):
        useless.append("custom_ca without client_verify")
    if useless:
        say(f"pdserver: warning: without a meaning here, ignored: {', '.join(useless)}", error=True)
    hosts = {each.host for each in (config.tensorflow_address, config.tensorflow_grpc_address) if each is not None}
    if all(map(is_loopback, hosts)):
        say(
            "Listening on this machine alone, not on all addresses as TensorFlow Serving does: --host=0.0.0.0 opens it."
        )
