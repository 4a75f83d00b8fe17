"""Base paths: folders whose subfolders have versions' numbers for names, each with a Paddle model or an archive.

    <base_path>/<number>/       a Paddle model in any form that the model store takes, with or without a manifest
    <base_path>/<number>/x.pdar the same, packed: the only archive in the folder

Zeros before a number do not count, and other names are not looked at: a version that is copied as `2.part` and renamed
to `2` appears whole. Everything here blocks, and may be called from any thread.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from pdserver.errors import Unavailable
from pdserver.store.watching import Stamp, stamp
from pdserver.tfserving.source import VersionFolder

_NUMBER = re.compile(r"[0-9]{1,30}")
_LARGEST = 2**63 - 1
SETTLE_SECONDS = 1.0
"""A folder that has changed is looked at again after this time, and taken if it has not changed further."""


def versions_in(name: str, base_path: Path) -> dict[str, VersionFolder]:
    """All versions of the model `name`, by number. Raises Unavailable for a base path that can't be read. One version
    that can't be read hides no others: what is wrong is said when it is loaded."""
    try:
        named = [path for path in base_path.iterdir() if _NUMBER.fullmatch(path.name)]
        folders = [path for path in named if os.path.isdir(path)]  # noqa: PTH112 - a Path raises PermissionError
        found: dict[str, VersionFolder] = {}
        for path in sorted(folders, key=lambda path: (len(path.name), path.name)):
            number = int(path.name)
            if number <= _LARGEST and str(number) not in found:
                found[str(number)] = VersionFolder(name, number, path, _stamp(path))
    except OSError as error:
        reason = error.strerror or error
        raise Unavailable(f"Could not find base path {base_path} for servable {name}: {reason}") from None
    return found


def _stamp(folder: Path) -> Stamp:
    try:
        return stamp(folder)
    except OSError as error:
        return ((str(error), 0, 0, 0),)


def are_young(folders: Iterable[VersionFolder]) -> bool:
    """Whether any of them has changed within the last seconds, so that somebody may be copying it."""
    since = time.time() - SETTLE_SECONDS
    try:
        return any(
            Path(inside, name).stat().st_ctime > since  # st_mtime may be that of what was copied
            for folder in folders
            for inside, _, files in os.walk(folder.path)
            for name in (".", *files)
        )
    except OSError:
        return True
