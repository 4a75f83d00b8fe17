"""Puts the folders of models that a command line names where the server can open them: links, and a file of settings.

The folders themselves may be read-only and are never written to.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pdarchiver import folders, modelconfig
from pdarchiver import manifest as manifests
from pdarchiver.errors import ArchiveError
from pdarchiver.manifest import MANIFEST_PATH, MANIFEST_PATHS, Manifest, Signature, check_name
from pdserver.errors import ConfigError
from pdserver.handlers.runtime import joints

_MAX_NAME = 128


def name_of(models: Sequence[Path], wanted: str | None) -> str:
    """The name under which the models are served: the one that is wanted, else of the folders. Raises ConfigError."""
    if wanted is None:
        return "-".join(map(_own_name, models))[:_MAX_NAME]
    try:
        return check_name(wanted)
    except ValueError as error:
        raise ConfigError(f"--name: {error}") from None


def lay_out(models: Sequence[Path], name: str, config: Mapping[str, Any], store: Path) -> None:
    """Make the folder `name` in `store`, which serves the models, in a row if there are several, with the settings
    `config`. Raises ConfigError for folders without a model, and for models that do not fit each other."""
    home = store / name
    if len(models) == 1:
        _link(models[0], home)
        _write(home, _with_its_own(home / folders.CONFIG_FILE, config))
        return
    home.mkdir()
    parts = [f"{i}-{_own_name(model)}" for i, model in enumerate(models, 1)]
    signatures = [(str(model), _link(model, home / part)) for model, part in zip(models, parts, strict=True)]
    manifest = Manifest(
        model_name=name,
        handler="sequence",
        config_file=folders.CONFIG_FILE,
        signature=joints.signature_of(signatures),
    )
    (home / MANIFEST_PATH).parent.mkdir()
    (home / MANIFEST_PATH).write_bytes(manifests.dump(manifest))
    _write(home, {**config, "sequence": {"models": parts}})


def remove(store: Path) -> None:
    """Remove what `lay_out` has made. Idempotent."""
    shutil.rmtree(store, ignore_errors=True)


def _link(model: Path, home: Path) -> Signature:
    """Raises ConfigError for a folder without a model."""
    where = f"--model {model}"
    if not model.is_dir():
        fix = "name the folder that holds the model's files" if model.exists() else "no such folder"
        raise ConfigError(f"{where}: {fix}")
    if any((model / path).is_file() for path in MANIFEST_PATHS):
        raise ConfigError(
            f"{where}: an archive's folder, which has settings of its own: pdserver --start --foreground --model-store "
            f"{model.parent} --models {model.name}"
        )
    try:
        folders.lay_out(model, home)
        signature = folders.describe(home, None).signature
    except ArchiveError as error:
        raise ConfigError(f"{where}: {str(error).removeprefix(f'{home}: ').replace(f'{home}', str(model))}") from None
    except OSError as error:
        raise ConfigError(f"{where}: {error.filename}: {error.strerror}") from None
    assert signature is not None  # noqa: S101 - `describe` always has one
    return signature


def _with_its_own(file: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """What the folder has said of its model, and `config`, which goes before it."""
    own = modelconfig.read(file) if file.exists() else {}
    merged = {**own, **config}
    if isinstance(own.get("predictor"), dict):
        merged["predictor"] = {**own["predictor"], **config.get("predictor", {})}
    return merged


def _write(home: Path, config: Mapping[str, Any]) -> None:
    (home / folders.CONFIG_FILE).write_text(yaml.safe_dump(dict(config), sort_keys=False))


def _own_name(model: Path) -> str:
    """The folder's name, as far as a model may have it."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", model.resolve().name).lstrip("._-") or "model"
