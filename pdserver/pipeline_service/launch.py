"""A prepared service → what the server is started with: a folder that describes it as a model, and a command.

The server serves the folder in place. It names the script, which stays where it is, with all that it reads.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import sys
import tempfile
from pathlib import Path

import msgspec
import yaml

from pdarchiver import model as models
from pdarchiver.errors import ArchiveError
from pdarchiver.pack import PackOptions, pack
from pdserver import __version__
from pdserver.configuration.loading import load_config
from pdserver.configuration.server import KEYS, Config
from pdserver.configuration.values import Address
from pdserver.errors import ConfigError
from pdserver.handlers.pipeline import entry, script, settings
from pdserver.handlers.pipeline.script import Script, Service
from pdserver.pipeline_service import separate
from pdserver.serve import marks
from pdserver.serve.settings import addresses
from pdserver.store.run_directory import state_folder
from pdserver.system.folders import make_folder

_READ_KEYS = frozenset(
    {"inference_address", "management_address", "grpc_management_port", "enable_grpc", "enable_metrics_api",
     "state_location"}
)  # fmt: skip
"""The keys that decide here. What the operator's configuration says of hosts holds; ports are config.yml's."""


def command(service: Service) -> list[str]:
    """The command that serves a service in the foreground. Raises ConfigError."""
    said = load_config({}, keys=_READ_KEYS)
    state = state_folder(said.state_location, said.xdg_state_home)
    store = describe(service, script.this(), state)
    wanted = {
        "model_store": str(store),
        "load_models": service.name,
        "config_snapshots": "false",
        **keys(service, said),
    }
    flags = [word for key, value in {**wanted, **keys(service, said)}.items() for word in (KEYS[key].flag, value)]
    mark = marks.path(state, service.config.http_port or service.config.rpc_port or 0)
    return [sys.executable, "-m", "pdserver", "--start", "--foreground", "--serve-mark", str(mark), *flags]


def describe(service: Service, started: Script, state: Path) -> Path:
    """A model store with the service in it, below the folder `state`: as a model, or as a pipeline if each Op has
    workers of its own. Raises ConfigError.

    Its name follows from what is in it, so that services that run at the same time are not in each other's way.
    """
    _check_models(service)
    script_said = msgspec.to_builtins(started)
    is_separate = settings.is_separate(service.config, jumps=any(op.is_jump_op() for op in service.ops))
    if is_separate:
        text = separate.text(service, script_said)
    else:
        model = {**settings.of_model(service.config), script.SECTION: script_said}
        text = yaml.safe_dump(model, allow_unicode=True, sort_keys=False)
    digest = hashlib.sha256(f"{__version__} {service.name} {text}".encode()).hexdigest()
    store = state / "web-services" / digest[:16]
    if (store / service.name).exists():
        return store
    make_folder(store, 0o700)
    with tempfile.TemporaryDirectory(dir=store) as scratch:
        if is_separate:
            folder = Path(scratch) / service.name
            folder.mkdir()
            separate.write(folder, text)
            with contextlib.suppress(OSError):  # another start of it was faster
                folder.rename(store / service.name)
        else:
            _pack(service, Path(scratch), store, text)
    return store


def _pack(service: Service, scratch: Path, store: Path, text: str) -> None:
    config_file = scratch / "model-config.yaml"
    config_file.write_text(text, "utf-8")
    options = PackOptions(
        model_name=service.name,
        version="1.0",
        handler=entry.__file__,
        config_file=config_file,
        export_path=store,
        archive_format="no-archive",
        force=True,
    )
    try:
        pack(options)
    except ArchiveError as error:
        raise ConfigError(str(error)) from None


def keys(service: Service, said: Config) -> dict[str, str]:
    """The server's keys that config.yml sets. `said` is what the operator's configuration says."""
    http, rpc = service.config.http_port, service.config.rpc_port
    inference, management = addresses(http or rpc or 0, said)
    if http is None:
        inference = dataclasses.replace(inference, port=0)  # the system chooses one
    wanted = {"inference_address": str(inference), "management_address": str(management)}
    if rpc is not None:
        wanted |= {"enable_grpc": "true", "grpc_inference_port": str(rpc)}
        if "grpc_management_port" not in said.given:
            wanted["grpc_management_port"] = "0"
    elif "enable_grpc" not in said.given:
        wanted["enable_grpc"] = "false"
    if service.config.metrics_port is not None:
        wanted |= {"enable_metrics_api": "true"}
        wanted["metrics_address"] = str(Address("localhost", service.config.metrics_port))
    elif "enable_metrics_api" not in said.given:
        wanted["enable_metrics_api"] = "false"
    return wanted


def _check_models(service: Service) -> None:
    """Raises ConfigError for a folder without a model, before a server is started for it."""
    for name, op in service.config.ops.items():
        if op.model and op.model.model_config:
            try:
                models.find(Path(op.model.model_config), None, where="")
            except ArchiveError as error:
                raise ConfigError(f"op.{name}.local_service_conf.model_config: {error} (from {Path.cwd()})") from None
