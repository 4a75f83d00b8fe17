"""A model's folder in Triton's layout.

    <repository>/<model>/config.pbtxt          may be missing: then the configuration comes from the model's own files
    <repository>/<model>/<version>/            a whole number without a leading 0; others are not versions
        model.pdmodel or model.json, model.pdiparams; or model.pdar, an archive; or nothing, of an ensemble
    <repository>/<model>/…                     labels of outputs, warmup/, and what a handler may need

Everything here blocks, and may be called from any thread.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from pdarchiver import manifest as manifests
from pdarchiver import model as models
from pdarchiver import onnx_model
from pdarchiver.errors import ArchiveError
from pdarchiver.manifest import Signature
from pdarchiver.names import path_problem
from pdserver.dialects.protos.text import content
from pdserver.errors import ArchiveUnusable, ConfigError, LoadFailed
from pdserver.formats.values import shown
from pdserver.handlers.runtime.rowwise import proof
from pdserver.store.archives import Store
from pdserver.store.model import StoredModel
from pdserver.store.watching import Stamp, stamp
from pdserver.triton import archives, ensembles
from pdserver.triton import settings as translation
from pdserver.triton.complete import check, check_name, complete, signature_of, version_policy
from pdserver.triton.model_config import ModelConfig, as_json, from_text

_log = logging.getLogger("pdserver.triton")
CONFIG_FILE = "config.pbtxt"
POLL_FAILED = "failed to poll from model repository"
"""Triton's words for every error of a folder. Clients look for them."""
_VERSION = re.compile(r"[1-9][0-9]{0,18}")
_MODEL_FILES = ("model.pdmodel", "model.json", "model.onnx")
"""The files that Triton's Paddle backend looks for, that Paddle 3 writes, and that its ONNX backend looks for."""


@dataclass(frozen=True)
class ModelFolder:
    """One model as it was found. `private`: the folder is removed with the model."""

    name: str
    path: Path
    config: Any
    """The configuration from the file, or from the call that loads the model, as it was given."""
    versions: Mapping[str, Stamp]
    """The versions that its version policy selects, each with a stamp that changes with its files."""
    private: bool = False
    store: Store | None = field(default=None, compare=False)
    """Opens archives."""
    members: ensembles.Members = field(default_factory=dict, compare=False)
    """Of an ensemble that is to be opened: its models, as they are served now."""

    @property
    def is_ensemble(self) -> bool:
        return ensembles.is_ensemble(self.config)

    def url(self, version: str) -> str:
        return f"{self.name}/{version}"

    def open(self, url: str) -> StoredModel:
        """The version `url`, in the form that the engine loads. Raises ArchiveUnusable."""
        version = url.rpartition("/")[2]
        try:
            return self._open(url, version)
        except (ArchiveError, ConfigError, OSError) as error:
            raise ArchiveUnusable(self.told(error)) from None

    def release(self, model: StoredModel) -> None:
        """Give back an archive. Whoever put the folder there removes it."""
        if self.store is not None:
            self.store.release(model)

    def told(self, error: Exception) -> str:
        """An error's text for clients. It names files by their place in the model, not on the disk."""
        return _told(error, self.path, self.name)

    def workers_alone(self, before: ModelFolder, version: str) -> int | None:
        """How many workers the version needs, if nothing else has changed since `before`. 0 means as many as then. None
        means that more has changed. Raises ConfigError.
        """
        if self.private or self.path != before.path or self.versions[version] != before.versions.get(version):
            return None
        if self.config == before.config:
            return 0
        plain, plain_before = _of_a_version(self.config), _of_a_version(before.config)
        placed, placed_before = (
            translation.placement(c.instance_group, _where(self.name)) for c in (self.config, before.config)
        )
        if plain != plain_before or placed.devices != placed_before.devices:
            return None
        return placed.workers

    def described(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """The manifest of an unchanged version, with the current configuration."""
        policy = {"version_policy": as_json(version_policy(self.config))}
        return {**manifest, "modelConfig": manifest.get("modelConfig", {}) | policy}

    def _open(self, url: str, version: str) -> StoredModel:
        where = _where(self.name)
        check_name(self.config, self.name, where)
        archive = archives.archive_in(self.path / version, self.config.default_model_filename)
        if self.is_ensemble:
            labels = self._labels(self.config, where)
            stored, warnings = ensembles.stored_ensemble(url, self.path, self.config, self.members, labels, where)
        elif archive is not None and self.store is not None:
            stored, warnings = archives.open_archive(self.store, archive, url, self.config, where)
        else:
            stored, warnings = self._open_model(url, version, where)
        for warning in warnings:
            _log.warning("%s: %s", url, warning)
        return stored

    def _open_model(self, url: str, version: str, where: str) -> tuple[StoredModel, list[str]]:
        ignored = check(self.config, self.name, where)  # first, because a model of another backend has other files
        files = models.find(self._model_file(version), None, where="")
        signature = models.read_signature(files, "; put it there, with all weights in it")
        is_onnx = files.model.suffix == onnx_model.SUFFIX
        config, warnings = complete(
            self.config,
            self.name,
            signature,
            where,
            is_onnx=is_onnx,
            works_row_by_row=lambda: _works_row_by_row(files.model, signature),
        )
        if not config.default_model_filename:
            config.default_model_filename = files.model.name
        settings, more = translation.settings(config, where)
        sections, rest = translation.model_yaml(config, self._labels(config, where), where)
        described = manifests.Manifest(
            model_name=self.name,
            model_version=version,
            serialized_file=self._inside(files.model),
            params_file=self._inside(files.params) if files.params else None,
            signature=signature_of(config, signature),
        )
        raw = orjson.loads(manifests.dump(described)) | {"modelConfig": as_json(config)}
        stored = StoredModel(
            url=url,
            directory=self.path,
            digest=hashlib.sha256(orjson.dumps(raw)).hexdigest(),
            manifest=replace(described, config_file=CONFIG_FILE, raw=raw),
            settings=settings,
            model_config=sections,
        )
        return stored, [*ignored, *warnings, *more, *rest]

    def _model_file(self, version: str) -> Path:
        """The file that the configuration names, else one with a usual name, else the folder itself, to be searched."""
        folder = self.path / version
        named: str = self.config.default_model_filename
        if named:
            if problem := path_problem(named):
                raise ConfigError(f"{self.name}/{CONFIG_FILE}: default_model_filename: {shown(named)} {problem}")
            return folder / named
        return next((folder / name for name in _MODEL_FILES if (folder / name).is_file()), folder)

    def _inside(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()

    def _labels(self, config: Any, where: str) -> dict[str, list[str]]:
        """The classes of each output, by name. The configuration names a file with one class in each line."""
        labels = {}
        for output in config.output:
            if output.label_filename:
                if problem := path_problem(output.label_filename):
                    raise ConfigError(f"{where}: label_filename: {shown(output.label_filename)} {problem}")
                text = content(self.path / output.label_filename, f"{self.name}/{output.label_filename}")
                labels[output.name] = text.splitlines()
        return labels


def read(
    path: Path, name: str, config: Any = None, *, private: bool = False, store: Store | None = None
) -> ModelFolder:
    """The model in the folder `path`. `store` opens archives. Raises LoadFailed."""
    file = path / CONFIG_FILE
    try:
        if config is None:
            config = from_text(content(file, _where(name)), _where(name)) if file.is_file() else ModelConfig()
        versions = versions_in(path)
        wanted = _wanted(config.version_policy, versions)
        shared = stamp(path, skip={CONFIG_FILE, *versions})
        stamps = {version: (*shared, *stamp(path / version)) for version in wanted}
    except (ConfigError, OSError) as error:
        raise LoadFailed(f"{POLL_FAILED}: {_told(error, path, name)}") from None
    if not wanted:
        have = f"; there are {', '.join(versions)}" if versions else ""
        raise LoadFailed(f"no version is available: version_policy and the folders of {name} agree on none{have}")
    return ModelFolder(name, path, config, stamps, private, store)


def versions_in(path: Path) -> list[str]:
    """The versions in a folder, the newest last."""
    return sorted(
        (child.name for child in path.iterdir() if _VERSION.fullmatch(child.name) and child.is_dir()), key=int
    )


def _wanted(policy: Any, versions: Sequence[str]) -> Sequence[str]:
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return versions
    if choice == "specific":
        return [version for version in versions if int(version) in policy.specific.versions]
    return versions[-max(1, policy.latest.num_versions) :]


def _told(error: Exception, path: Path, name: str) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename or name}: cannot be read: {error.strerror}"
    return text.replace(str(path), name)


def _where(name: str) -> str:
    return f"{name}/{CONFIG_FILE}"


def _of_a_version(config: Any) -> Any:
    """The parts of a configuration for which a serving version must be loaded again if they change."""
    plain = ModelConfig()
    plain.CopyFrom(config)
    plain.ClearField("instance_group")
    plain.ClearField("version_policy")
    return plain


def _works_row_by_row(model: Path, signature: Signature) -> bool:
    found = proof.of_file(model, signature.inputs)
    return all(found.first_axis(spec.source) == "batch" for spec in signature.outputs)
