"""Folders of processes that run on one machine more than once."""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
from pathlib import Path

from pdserver.logs.files import LogFile
from pdserver.system.folders import make_folder

_LOG_BYTES = 10 * 1024 * 1024


class OwnFolder:
    """One of the folders `KIND-0`, `KIND-1`…: the first that no other process has. It stays this one's until `close`,
    or until the process ends, and its content stays after that: the next one finds it."""

    def __init__(self, parent: Path, kind: str) -> None:
        """Raises OSError when the folder can't be made."""
        for number in itertools.count():
            self.path = parent / f"{kind}-{number}"
            make_folder(self.path, 0o700)
            self._fd = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._fd)
            else:
                return

    def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def log_to(folder: Path) -> None:
    """Write what the cluster's part in this process says to `cluster.log` in its folder, from now on."""
    file = LogFile(folder / "cluster.log", _LOG_BYTES)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("pdserver")
    logger.setLevel(logging.INFO)
    logger.addHandler(file)
