"""Which servers of this host `serve` and web services have started: each has a folder in the state folder as long as it
runs, with the port in its name."""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from pdserver.errors import ConfigError
from pdserver.system.folders import make_folder


def path(state: Path, port: int) -> Path:
    return state / f"serve-{socket.gethostname()}-{port}"


@contextlib.contextmanager
def kept(mark: Path) -> Iterator[None]:
    """Have a mark while the server runs. Raises ConfigError where it can't be made."""
    try:
        make_folder(mark, 0o700)
    except OSError as error:
        raise ConfigError(
            f"state_location={mark.parent}: {error.strerror}: name a folder that this user may write to"
        ) from None
    try:
        yield
    finally:
        shutil.rmtree(mark, ignore_errors=True)


def ports(state: Path) -> Iterator[int]:
    """The ports of the servers that have marks. One that was killed may have left its mark."""
    for mark in sorted(state.glob(f"serve-{socket.gethostname()}-*")):
        with contextlib.suppress(ValueError):
            yield int(mark.name.rpartition("-")[2])
