"""The folders that `model_repository` names, as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pdserver.errors import LoadFailed, Unavailable
from pdserver.triton.model_folder import CONFIG_FILE, POLL_FAILED, ModelFolder, read, versions_in
from pdserver.values import nearest, shown


class Folders:
    """Its methods block, and may be called from any thread."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = [folder.resolve() for folder in folders]

    def names(self) -> list[str]:
        """Of all models, sorted. Raises Unavailable when a folder can't be read now."""
        return sorted({path.name for folder in self._folders for path in _model_folders(folder)})

    def find(self, name: str, config: Any = None) -> ModelFolder:
        """The model as its folder has it; `config` replaces its configuration.

        Raises LoadFailed when there is no such model, or more than one, or it can't be read.
        """
        found = [path for folder in self._folders for path in _model_folders(folder) if path.name == name]
        if not found:
            raise LoadFailed(f"{POLL_FAILED}: it has no folder {shown(name)}{nearest(name, self.names())}")
        if len(found) > 1:
            raise LoadFailed(f"{POLL_FAILED}: {shown(name)} is in {' and in '.join(str(p.parent) for p in found)}")
        return read(found[0], name, config)


def _model_folders(folder: Path) -> list[Path]:
    try:
        return [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and _is_model(path)]
    except OSError as error:
        raise Unavailable(f"model_repository={folder} cannot be read: {error.strerror}") from None


def _is_model(path: Path) -> bool:
    return path.is_dir() and ((path / CONFIG_FILE).is_file() or bool(versions_in(path)))
