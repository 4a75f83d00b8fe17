"""Code in a model repository: where Triton has a model of its Python backend, a version's folder has an archive with a
handler.

    <repository>/<model>/<version>/model.pdar
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pdserver.errors import ConfigError
from pdserver.formats.values import shown
from pdserver.store.archives import Store
from pdserver.store.model import StoredModel
from pdserver.triton import settings as translation
from pdserver.triton.complete import PYTHON, check_supported, version_policy
from pdserver.triton.model_config import as_json

FILE = "model.pdar"
_SAYS_THE_HANDLER = ("input", "output")


def archive_in(folder: Path, named: str) -> Path | None:
    """The archive in a version's folder, if there is one. `named` is the file that the configuration names."""
    path = folder / (named or FILE)
    return path if path.suffix == ".pdar" and path.is_file() else None


def open_archive(store: Store, path: Path, url: str, config: Any, where: str) -> tuple[StoredModel, list[str]]:
    """The archive as the version that `url` names, with the settings of a configuration, and what has no effect in it.

    What the model takes and gives is what its handler says. Give it back to the store. Raises ConfigError, and what
    `Store.open` does.
    """
    for field in ("backend", "platform"):
        said = getattr(config, field)
        if said not in ("", PYTHON):
            raise ConfigError(f"{where}: {field}: {shown(said)!r}, but the version is an archive; expected {PYTHON!r}")
    warnings = check_supported(config, where)
    name, _, version = url.rpartition("/")
    full = type(config)()
    full.CopyFrom(config)
    full.name, full.backend, full.default_model_filename = name, PYTHON, path.name
    full.version_policy.CopyFrom(version_policy(full))
    settings, more = translation.settings(config, where) if config.ListFields() else ({}, [])
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    stored = store.open(f"{url}/{path.name}", path.resolve())
    raw = dict(stored.manifest.raw)
    raw["model"] = {**(raw.get("model") or {}), "modelName": name, "modelVersion": version}
    raw["modelConfig"] = {key: value for key, value in as_json(full).items() if key not in _SAYS_THE_HANDLER}
    return replace(
        stored,
        url=url,
        manifest=replace(stored.manifest, model_name=name, model_version=version, raw=raw),
        settings={**stored.settings, **settings},
        model_config=stored.model_config | ({"parameters": parameters} if parameters else {}),
    ), [*warnings, *more]
