"""Opens a version's folder as the model that the engine loads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pdserver.errors import ArchiveUnusable, PdError
from pdserver.store.archives import Store
from pdserver.store.model import StoredModel, suffix
from pdserver.store.model_folders import is_served
from pdserver.store.watching import Stamp

_SAVED_MODEL = "saved_model.pb"


@dataclass(frozen=True)
class VersionFolder:
    """One version of a model, as it was found."""

    name: str
    """The model's."""
    number: int
    path: Path
    stamp: Stamp
    """It changes with the folder's files."""

    @property
    def version(self) -> str:
        """What the engine calls it."""
        return str(self.number)

    @property
    def url(self) -> str:
        """What the describe call and the log call it."""
        return f"{self.name}/{self.version}"


class VersionSource:
    """A Source of this one folder. The store opens what is in it; its path and not its manifest gives the version."""

    def __init__(self, folder: VersionFolder, store: Store) -> None:
        self._folder = folder
        self._store = store

    def open(self, url: str) -> StoredModel:
        folder = self._folder
        place = _place(folder.path.resolve(), url)
        within = url if place.is_dir() else f"{url}/{place.name}"
        try:
            stored = self._store.open(within, place)
        except PdError as error:
            raise type(error)(str(error).replace(f"{place}/", "")) from None
        raw = {**stored.manifest.raw}
        raw["model"] = {**raw.get("model", {}), "modelName": folder.name, "modelVersion": folder.version}
        manifest = replace(stored.manifest, model_name=folder.name, model_version=folder.version, raw=raw)
        return replace(stored, url=url, manifest=manifest)

    def release(self, model: StoredModel) -> None:
        self._store.release(model)


def _place(folder: Path, url: str) -> Path:
    """The folder itself, or the archive in it. Raises ArchiveUnusable."""
    try:
        if is_served(folder):
            return folder
        archives = [path for path in sorted(folder.iterdir()) if suffix(path.name) and path.is_file()]
    except OSError as error:
        raise ArchiveUnusable(f"{url}: cannot be read: {error.strerror}") from None
    if len(archives) > 1:
        raise ArchiveUnusable(f"{url}: several archives ({archives[0].name}, {archives[1].name}, …): leave one in it")
    if not archives:
        theirs = (folder / _SAVED_MODEL).exists()
        advice = f"; {_SAVED_MODEL} is TensorFlow's: convert it to a Paddle model" if theirs else ""
        raise ArchiveUnusable(f"{url}: no Paddle model (.pdmodel or .json, .pdiparams) and no archive in it{advice}")
    return archives[0]
