"""Writes the script `tensorflow_model_server`, for who wants it: an installation must not hide TensorFlow Serving's."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from pdserver.errors import ConfigError, Conflict

_NAME = "tensorflow_model_server"
_MARK = "# pdserver's, made by --install_script\n"


def install(folder: Path) -> Path:
    """Write the script to the folder, in place of an earlier one of ours. Raises ConfigError, and Conflict for somebody
    else's file."""
    path = folder / _NAME
    text = f'#!/bin/sh\n{_MARK}exec {shlex.quote(sys.executable)} -m pdserver.{_NAME} "$@"\n'
    try:
        if os.path.lexists(path) and _MARK not in path.read_text(errors="replace")[:1000]:
            raise Conflict(f"{path}: another program has this name: name another folder, or move that away")
        path.write_text(text)
        path.chmod(0o755)
    except OSError as error:
        raise ConfigError(f"--install_script={folder}: {error.strerror}: name a folder that can be written") from None
    return path
