"""Folders of the server's own: nobody gets into them by the umask that it happened to be started with."""

from __future__ import annotations

from pathlib import Path


def make_folder(path: Path, mode: int) -> None:
    """With those above it that are missing, each with this mode at most. One that is there stays as it is.

    Raises OSError.
    """
    try:
        path.mkdir(mode, exist_ok=True)
    except FileNotFoundError:
        if path.parent == path:
            raise
        make_folder(path.parent, mode)
        path.mkdir(mode, exist_ok=True)
