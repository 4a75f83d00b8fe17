"""Folders of the store with a model and no manifest, as Paddle's tools leave them: the model says what theirs would be.

Such a folder is served in place and never written to. Where each parameter has its own file, which Paddle can't load,
the server has a folder of its own with links to the other files and with all parameters in one file.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

from pdarchiver import folders
from pdarchiver.manifest import MANIFEST_PATHS, Manifest, check_name
from pdarchiver.model import is_folder_of_model
from pdserver.store.model import StoredModel, stored_model
from pdserver.store.unpacked import UnpackedArchives

_BATCH_SIZE = 32
"""What Paddle Serving merges by default (`--batch_infer_size`). Requests share a run only where the model's operations
show that its rows do not depend on each other."""


def has_manifest(folder: Path) -> bool:
    return any((folder / manifest).is_file() for manifest in MANIFEST_PATHS)


def is_served(folder: Path) -> bool:
    """Whether a folder has a manifest or a model. False for one that can't be read."""
    try:
        return has_manifest(folder) or is_folder_of_model(folder)
    except OSError:
        return False


def open_model(url: str, folder: Path, unpacked: UnpackedArchives) -> StoredModel:
    """The model in a folder without a manifest. Its settings are those of its `model-config.yaml`, if there is one.

    Raises ArchiveError for what is no model, OSError, and what `stored_model` raises.
    """
    name = _name(url)
    if not folders.has_separate_parameters(folder):
        manifest = folders.describe(folder, name)
        return _with_batches(stored_model(url, folder, digest_of(manifest.raw), manifest))
    files = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(folder.iterdir())]
    key = digest_of([str(folder), name, files])
    directory, manifest = unpacked.hold(key, partial(_laid_out, folder, name))
    try:
        return _with_batches(stored_model(url, directory, key, manifest))
    except BaseException:
        unpacked.release(key)
        raise


def digest_of(value: object) -> str:
    """The sha256 of a value's JSON."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _with_batches(model: StoredModel) -> StoredModel:
    return replace(model, settings={"batch_size": _BATCH_SIZE, **model.settings})


def _laid_out(folder: Path, name: str | None, target: Path) -> Manifest:
    folders.lay_out(folder, target)
    return folders.describe(target, name)


def _name(url: str) -> str | None:
    """The folder's own name, if models can have it."""
    try:
        return check_name(url)
    except ValueError:
        return None
