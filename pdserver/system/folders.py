"""The server's own folders, whose modes do not depend on the umask."""

from __future__ import annotations

from pathlib import Path


def make_folder(path: Path, mode: int) -> None:
    """Make the folder and the missing ones above it, each with at most this mode. An existing one keeps its mode.

    Raises OSError.
    """
    try:
        path.mkdir(mode, exist_ok=True)
    except FileNotFoundError:
        if path.parent == path:
            raise
        make_folder(path.parent, mode)
        path.mkdir(mode, exist_ok=True)
