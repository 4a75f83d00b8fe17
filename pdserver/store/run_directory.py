"""Where servers keep what is their own: the state folder, and in it a folder of each running server and its pid file.

Nothing of it is where cleaners of temporary files look: what a server needs while it runs must not go because it is
old. Several servers of a user share the state folder; so may several hosts (a home on NFS), and containers.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from pdserver.configuration.values import Address
from pdserver.errors import ConfigError, Conflict
from pdserver.system.folders import make_folder

_CHOOSE = "set state_location to a folder on this machine's disk that belongs to the server's user alone"


def state_folder(configured: Path | None, xdg_state_home: Path | None = None) -> Path:
    """The configured one, else the first of the usual ones that can be used. Raises ConfigError."""
    problem = ""
    for path in [configured.resolve()] if configured else _usual_folders(xdg_state_home):
        try:
            return _usable(path)
        except OSError as error:
            problem = f"{path}: {error.strerror}"
    raise ConfigError(f"state_location={problem}: {_CHOOSE}")


def is_temporary(state: Path) -> bool:
    """Whether there was no better place: no home, or one that can't be written."""
    return state == _temporary_folder()


def _usual_folders(xdg_state_home: Path | None) -> Iterator[Path]:
    """$XDG_STATE_HOME/pdserver, by default ~/.local/state/pdserver; where there is no home, among temporary files."""
    if xdg_state_home is not None:
        yield xdg_state_home.resolve() / "pdserver"
    with contextlib.suppress(RuntimeError):  # a user of whom the system knows no home
        yield (Path.home() / ".local" / "state" / "pdserver").resolve()
    yield _temporary_folder()


def _temporary_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"pdserver-{os.geteuid()}"


def _usable(path: Path) -> Path:
    """It is made if it is not there. Raises OSError for one that this user can't write to, or others can."""
    make_folder(path, 0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise OSError(errno.EPERM, "not a folder of this user's")
    if found.st_mode & 0o022:
        raise OSError(errno.EPERM, f"others can write to it (chmod go-w {path})")
    if not os.access(path, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, "can't be written")
    return path


def _lock(path: Path, flags: int, how: int = fcntl.LOCK_EX) -> int | None:
    """A descriptor that holds a file's or folder's lock; None when somebody else holds it. Raises OSError."""
    while True:
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), path.stat()):
                return fd
        except BlockingIOError:
            os.close(fd)
            return None
        except FileNotFoundError:
            pass
        except OSError:
            os.close(fd)
            raise
        os.close(fd)  # whoever held it has removed it, or a cleaner has: there is another one, or will be


class PidFile:
    """Says which process of this host serves a management address. Its lock, held for life, says that it still does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    @classmethod
    def of(cls, state: Path, address: Address) -> PidFile:
        return cls(state / f"{socket.gethostname()}-{address.file_name}.pid")

    def acquire(self, address: Address) -> None:
        """Raises Conflict when a server runs already, ConfigError where no file can be locked."""
        fd = self._lock()
        if fd is None:
            running = self.process()
            pid = running.pid if running else "unknown"
            raise Conflict(
                f"pdserver is already running with this management address (pid {pid}): "
                f"pdserver --stop --management-address {address}"
            )
        self._fd = fd
        created = psutil.Process().create_time()
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()} {created} {address.host_and_port}\n".encode(), 0)

    def _lock(self) -> int | None:
        try:
            return _lock(self.path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise ConfigError(f"state_location={self.path.parent}: {error.strerror}: {_CHOOSE}") from None

    def process(self) -> psutil.Process | None:
        """The server, when one is running; never a process that only has its number. Raises ConfigError."""
        if not self.path.is_file():
            return None
        fd = self._lock()
        if fd is not None:
            os.close(fd)
            return None
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            pid, created, *_ = self.path.read_text().split()
            process = psutil.Process(int(pid))
            if abs(process.create_time() - float(created)) < 1:
                return process
        return None

    @property
    def socket(self) -> Path:
        """Where its holder tells how it is."""
        return self.path.with_suffix(".sock")

    def release(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            self.path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1


def running_at(state: Path) -> Iterator[str]:
    """The management addresses, HOST:PORT, of this host's servers that run with this state folder."""
    for path in sorted(state.glob(f"{socket.gethostname()}-*.pid")):
        if PidFile(path).process() is not None:
            with contextlib.suppress(OSError, IndexError):
                yield path.read_text().split()[2]


class RunDirectory:
    """A private folder that goes when the server does; what killed servers left behind is swept at the next start.

    Its lock says that it is in use. The state folder is locked as well, together with other servers: where it is among
    temporary files, that keeps systemd-tmpfiles(8) out of it.
    """

    def __init__(self, state: Path) -> None:
        self._fds = [fd for fd in [_lock(state, os.O_RDONLY, fcntl.LOCK_SH)] if fd is not None]
        prefix = f"run-{socket.gethostname()}"
        for path in state.glob("run-*"):
            if path.name.rpartition("-")[0] == prefix:  # on another host, the locks of this one need not be known
                _sweep(path)
        fd = None
        while fd is None:  # a server that starts at the same time may sweep it before it is locked
            self.path = Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=state))
            with contextlib.suppress(FileNotFoundError):
                fd = _lock(self.path, os.O_RDONLY)
        self._fds.append(fd)

    def close(self) -> None:
        """Idempotent."""
        if self._fds:
            shutil.rmtree(self.path, ignore_errors=True)
        while self._fds:
            os.close(self._fds.pop())


def _sweep(path: Path) -> None:
    with contextlib.suppress(OSError):
        fd = _lock(path, os.O_RDONLY)
        if fd is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(fd)
