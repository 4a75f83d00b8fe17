"""Combines the folders that `model_repository` names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pdserver.errors import LoadFailed, Unavailable
from pdserver.formats.values import nearest, shown
from pdserver.store.archives import Store
from pdserver.triton.model_folder import CONFIG_FILE, POLL_FAILED, ModelFolder, read, versions_in

DUPLICATE = "model appears in two or more repositories"
"""Triton's words."""


class Folders:
    """The models in the folders. Its methods block, and may be called from any thread."""

    def __init__(self, folders: Sequence[Path], store: Store | None = None) -> None:
        """`store` opens archives in them."""
        self._folders = [folder.resolve() for folder in folders]
        self.store = store

    def models(self) -> dict[str, list[Path]]:
        """All models by name, sorted, each with its folders. Raises Unavailable if a folder can't be read."""
        found: dict[str, list[Path]] = {}
        for path in [path for folder in self._folders for path in _model_folders(folder)]:
            found.setdefault(path.name, []).append(path)
        return dict(sorted(found.items()))

    def find(self, name: str, config: Any = None, models: Mapping[str, Sequence[Path]] | None = None) -> ModelFolder:
        """The model in its folder. `config` replaces its configuration. `models` is a recent result of `models()`.

        Raises LoadFailed if there is no such model, or more than one, or it can't be read.
        """
        models = self.models() if models is None else models
        if name not in models:
            raise LoadFailed(f"{POLL_FAILED}: it has no folder {shown(name)}{nearest(name, models)}")
        if len(found := models[name]) > 1:
            where = " and in ".join(path.parent.name for path in found)
            raise LoadFailed(f"{POLL_FAILED}: {DUPLICATE}: it is in {where}")
        return read(found[0], name, config, store=self.store)


def _model_folders(folder: Path) -> list[Path]:
    try:
        return [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and _is_model(path)]
    except OSError as error:
        raise Unavailable(f"model_repository={folder} cannot be read: {error.strerror}") from None


def _is_model(path: Path) -> bool:
    return path.is_dir() and ((path / CONFIG_FILE).is_file() or bool(versions_in(path)))
