"""Where a running server keeps what is its own: a private folder for unpacked archives, and its pid file."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path

import psutil

from pdserver.errors import ConfigError, Conflict


def home() -> Path:
    """This user's folder for pid files and run directories; 0700. Raises ConfigError when it belongs to another."""
    path = Path(tempfile.gettempdir()) / f"pdserver-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    state = path.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid():
        raise ConfigError(f"{path} is not a folder of this user's: remove it, or set TMPDIR to another place")
    path.chmod(0o700)
    return path


def _lock(path: Path) -> int | None:
    """A descriptor that holds the file's lock, or None when somebody else holds it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


class PidFile:
    """Says which process serves a management address. Its lock, held for life, says that it still does."""

    def __init__(self, host: str, port: int) -> None:
        self.path = home() / f"{host.replace(':', '-')}_{port}.pid"
        self._fd = -1

    def acquire(self) -> None:
        """Raises Conflict when a server runs already."""
        fd = _lock(self.path)
        if fd is None:
            running = self.process()
            pid = running.pid if running else "unknown"
            raise Conflict(f"pdserver is already running with this management address (pid {pid}): pdserver --stop")
        self._fd = fd
        created = psutil.Process().create_time()
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()} {created}\n".encode(), 0)

    def process(self) -> psutil.Process | None:
        """The server, when one is running; never a process that only has its number."""
        if not self.path.is_file():
            return None
        fd = _lock(self.path)
        if fd is not None:
            os.close(fd)
            return None
        with contextlib.suppress(ValueError, psutil.Error):
            pid, created = self.path.read_text().split()
            process = psutil.Process(int(pid))
            if abs(process.create_time() - float(created)) < 1:
                return process
        return None

    def release(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            self.path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1


class RunDirectory:
    """A private folder that goes when the server does; what killed servers left behind is swept at the next start."""

    def __init__(self) -> None:
        self._sweep()
        self.path = Path(tempfile.mkdtemp(prefix="run-", dir=home()))
        fd = _lock(self.path / "lock")
        assert fd is not None  # noqa: S101 - the folder is new
        self._fd = fd

    @staticmethod
    def _sweep() -> None:
        for path in home().glob("run-*"):
            with contextlib.suppress(OSError):
                fd = _lock(path / "lock")
                if fd is not None:
                    shutil.rmtree(path, ignore_errors=True)
                    os.close(fd)

    def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._fd)
            self._fd = -1
