"""Opens a version's folder as the model that the engine loads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pdserver.configuration.model import MODEL_SETTINGS
from pdserver.errors import ArchiveUnusable, PdError
from pdserver.store.archives import Store
from pdserver.store.model import StoredModel, suffix
from pdserver.store.model_folders import is_served
from pdserver.store.watching import Stamp
from pdserver.tfserving.batching import Batching
from pdserver.tfserving.warm_up import of_version

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
    """A Source of this one folder. The store opens what is in it; its path and not its manifest gives the version.

    `batching` is what the folder's batches are to be; the model's own YAML goes before it. `iterations` is how often
    each of its warm-up records is asked.
    """

    def __init__(
        self, folder: VersionFolder, store: Store, batching: Callable[[Path], Batching], iterations: int
    ) -> None:
        self._folder = folder
        self._store = store
        self._batching = batching
        self._iterations = iterations

    def open(self, url: str) -> StoredModel:
        folder = self._folder
        batching = self._batching(folder.path)
        place = _place(folder.path.resolve(), url)
        within = url if place.is_dir() else f"{url}/{place.name}"
        try:
            stored = self._store.open(within, place)
        except PdError as error:
            raise type(error)(str(error).replace(f"{place}/", "")) from None
        raw = {**stored.manifest.raw}
        raw["model"] = {**raw.get("model", {}), "modelName": folder.name, "modelVersion": folder.version}
        manifest = replace(stored.manifest, model_name=folder.name, model_version=folder.version, raw=raw)
        warm_up = of_version(folder.path, self._iterations) if self._iterations else None
        return replace(_batched(stored, batching), url=url, manifest=manifest, warm_up=warm_up)

    def release(self, model: StoredModel) -> None:
        self._store.release(model)


def _batched(model: StoredModel, batching: Batching) -> StoredModel:
    own = {row.field for row in MODEL_SETTINGS.values() if row.name in model.model_config}
    settings = {field: value for field, value in batching.settings.items() if field not in own}
    return replace(
        model,
        settings={**model.settings, **settings},
        model_config={**batching.sections, **model.model_config},
    )


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
