"""A model that is open for use: its folder, its manifest and what its own YAML says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from pdarchiver.manifest import Manifest
from pdarchiver.pipeline.graph import Pipeline
from pdserver.configuration.layers import parse_model_config
from pdserver.configuration.model import ModelSpec, PartialSettings
from pdserver.errors import ArchiveUnusable, ConfigError, Forbidden
from pdserver.formats.values import shown
from pdserver.types import Interface, Request

SUFFIXES = (".pdar", ".mar", ".tar.gz", ".tgz", ".zip")
"""The names of archives end with one of these."""
WarmUp: TypeAlias = Callable[[ModelSpec, Interface], Iterator[Request]]
"""Makes the requests that each worker answers before it serves; their ids are what errors call them. The iterator may
block and raise PdError."""


@dataclass(frozen=True)
class StoredModel:
    """A model that is open for use: `directory` stays as it is until `Source.release`."""

    url: str
    """Its file name in the store, or where else it came from."""
    directory: Path
    digest: str
    """sha256 in hexadecimal: of an archive's bytes, of a folder's manifest."""
    manifest: Manifest
    settings: PartialSettings
    """What the model's own YAML says."""
    model_config: dict[str, Any]
    """That whole YAML; empty without one."""
    pin: str | None = None
    """The sha256 that the archive must have when it is opened again; None: open whatever is in the store then."""
    warm_up: WarmUp | None = None
    pipeline: Pipeline | None = None
    """Of a pipeline; None: it is a model."""
    interface: Interface | None = None
    """What a pipeline takes and gives, where that is said and does not follow from its models."""
    nested: Mapping[str, StoredModel] = field(default_factory=dict)
    """The models that are packed inside a pipeline, by their archives' paths in it."""

    @property
    def handler(self) -> str | None:
        """The handler that the manifest names; None when it names none."""
        return self.manifest.handler if (self.manifest.raw.get("model") or {}).get("handler") else None

    @property
    def name(self) -> str:
        """The manifest's model name; without one, the file's, as TorchServe has it."""
        return self.manifest.model_name or re.sub(r"\W", "_", _stem(self.url), flags=re.ASCII)


class Source(Protocol):
    """Where models are opened. Its methods block and may be called from any thread."""

    def open(self, url: str) -> StoredModel:
        """The model of this name, to be given back with `release`. Raises PdError."""

    def release(self, model: StoredModel) -> None:
        """Give back what `open` gave: nobody uses it any more."""


def stored_model(url: str, directory: Path, digest: str, manifest: Manifest, pin: str | None = None) -> StoredModel:
    """The model in `directory`, with what its own YAML says.

    Raises ArchiveUnusable for a YAML file that is wrong or unreadable, Forbidden for a link out of the directory.
    """
    settings: PartialSettings = {}
    model_config: dict[str, Any] = {}
    if manifest.config_file:
        where = f"{shown(url)}: {manifest.config_file}"
        try:
            path = (directory / manifest.config_file).resolve()
        except (OSError, RuntimeError):
            raise ArchiveUnusable(f"{where}: a loop of links") from None
        if not path.is_relative_to(directory):
            raise Forbidden(f"{where}: a link that leads out of the model's folder")
        try:
            settings, model_config = parse_model_config(path.read_bytes(), where)
        except ConfigError as error:
            raise ArchiveUnusable(str(error)) from None
        except OSError as error:
            raise ArchiveUnusable(f"{where}: cannot be read: {reason(error)}") from None
    return StoredModel(url, directory, digest, manifest, settings, model_config, pin)


def suffix(name: str, among: tuple[str, ...] = SUFFIXES) -> str:
    """Which of these the name ends with; "" when it is not the name of an archive."""
    return next((suffix for suffix in among if name.lower().endswith(suffix)), "")


def reason(error: Exception) -> str:
    """What went wrong, without the path that the text of an OSError repeats."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _stem(url: str) -> str:
    name = url.rpartition("/")[2]
    return name[: len(name) - len(suffix(name))]
