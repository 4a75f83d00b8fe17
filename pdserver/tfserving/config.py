"""TensorFlow Serving's model_config_list: which models there are, where, in which versions, with which labels.

Source of the fields and of what they mean: model_server_config.proto and file_system_storage_path_source.proto.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from pdarchiver.manifest import check_name
from pdserver.dialects.protos import message_class
from pdserver.dialects.protos.text import content, parse
from pdserver.errors import ConfigError
from pdserver.formats.values import nearest, shown
from pdserver.tfserving.policy import Choice

ModelServerConfig = message_class("tensorflow.serving.ModelServerConfig")
_SUFFIX = ".pbtxt"
_PLATFORMS = ("", "paddle", "tensorflow")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class WantedModel(msgspec.Struct, frozen=True):
    """One `config` of the list."""

    name: str
    base_path: Path
    choice: Choice
    """Which of its versions are served."""
    labels: Mapping[str, int]
    """Label → version."""


WantedModels = Mapping[str, WantedModel]
"""By name."""


def texts(path: Path) -> dict[Path, str]:
    """The text of a file, or of all .pbtxt files of a folder. Blocks. Raises ConfigError."""
    try:
        if not path.is_dir():
            return {path: content(path, str(path))}
        files = sorted(file for file in path.iterdir() if file.suffix == _SUFFIX)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if not files:
        raise ConfigError(f"{path}: no file in it ends with {_SUFFIX}: put model_config_list files there, or name one")
    return {file: content(file, str(file)) for file in files}


def parsed(files: Mapping[Path, str]) -> tuple[WantedModels, list[str]]:
    """The models of all files together, and what in them has no effect. Raises ConfigError with the file and the
    line."""
    models: dict[str, WantedModel] = {}
    warnings = []
    for file, text in files.items():
        message = parse(text, ModelServerConfig, str(file))
        found = wanted_by(message, str(file))
        for name in found.keys() & models.keys():
            raise ConfigError(f"{file}: Illegal to list model {name} multiple times in config list: it is in two files")
        models |= found
        warnings += [f"{file}: {warning}" for warning in ignored(message)]
    return models, warnings


def wanted_by(message: Any, where: str) -> WantedModels:
    """The models of a ModelServerConfig. Raises ConfigError, which says in which `config` the mistake is."""
    if message.HasField("custom_model_config"):
        raise ConfigError(f"{where}: custom_model_config: there is no code for it here: use model_config_list")
    if not message.HasField("model_config_list"):
        raise ConfigError(f"{where}: it has no model_config_list: write model_config_list {{ config {{ … }} }}")
    models: dict[str, WantedModel] = {}
    for number, config in enumerate(message.model_config_list.config, 1):
        model = _model(config, f"{where}: config {number}" + (f" ({shown(config.name)})" if config.name else ""))
        if model.name in models:
            raise ConfigError(f"{where}: Illegal to list model {model.name} multiple times in config list")
        models[model.name] = model
    return models


def ignored(message: Any) -> Iterator[str]:
    """What in a ModelServerConfig has no effect."""
    for config in message.model_config_list.config:
        if config.HasField("logging_config"):
            yield f"model {shown(config.name)}: logging_config has no effect: requests are not recorded"


def _model(config: Any, where: str) -> WantedModel:
    try:
        name = check_name(config.name)
    except ValueError as error:
        raise ConfigError(f"{where}: name: {error}" if config.name else f"{where}: it has no name") from None
    if config.model_platform not in _PLATFORMS:
        raise ConfigError(
            f"{where}: model_platform: {shown(config.model_platform)}{nearest(config.model_platform, _PLATFORMS)}:"
            ' expected "paddle", or "tensorflow" as files have it that were written for TensorFlow Serving'
        )
    choice = _choice(config.model_version_policy, f"{where}: model_version_policy")
    labels = dict(config.version_labels)
    for label, version in labels.items():
        _check_label(label, version, choice, f"{where}: version_labels")
    return WantedModel(name, _base_path(config.base_path, f"{where}: base_path"), choice, labels)


def _base_path(text: str, where: str) -> Path:
    if not text:
        raise ConfigError(f"{where}: it is missing: name the folder that holds the folders of the versions")
    if _SCHEME.match(text):
        raise ConfigError(f"{where}: {shown(text)}: folders of this machine alone are read: copy or mount it")
    if "\0" in text:
        raise ConfigError(f"{where}: {shown(text)}: not a folder's name")
    return Path(text).absolute()


def _choice(policy: Any, where: str) -> Choice:
    kind = policy.WhichOneof("policy_choice")
    if kind == "all":
        return Choice()
    if kind != "specific":
        return Choice(latest=max(1, policy.latest.num_versions))  # 0 is 1 in TensorFlow Serving, too
    versions = frozenset(policy.specific.versions)
    if not versions:
        raise ConfigError(f"{where}: specific: it names no version: write such as versions: 1")
    if min(versions) < 0:
        raise ConfigError(f"{where}: specific: versions: {min(versions)}: versions are 0 and more")
    return Choice(specific=versions)


def _check_label(label: str, version: int, choice: Choice, where: str) -> None:
    if not label:
        raise ConfigError(f"{where}: a label without a name: write key: 'stable' value: {version}")
    if version < 0:
        raise ConfigError(f"{where}: {shown(label)}: {version}: versions are 0 and more")
    if choice.specific and version not in choice.specific:
        raise ConfigError(
            f"{where}: {shown(label)}: version {version} is not among those of the policy specific:"
            f" {', '.join(map(str, sorted(choice.specific)))}"
        )
