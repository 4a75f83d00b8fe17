"""What trials have found, kept on disk for workers and servers to come.

Each outcome is a file, named for what it depends on: the model, the machine, the versions of all that takes part, the
settings. Where any of it differs, nothing is remembered.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from pdserver import __version__
from pdserver.types import EngineTrial

_log = logging.getLogger(__name__)
_PACKAGES = ("paddlepaddle", "paddlepaddle_gpu", "onnxruntime", "openvino")
_INSTALLED = ".dist-info"
_SUFFIX, _LOCK = ".json", ".lock"
_FIRST_PROCESSOR_BYTES = 16 * 1024
_IDENTITY = ("vendor_id", "model name", "stepping", "flags", "CPU implementer", "CPU part", "Features")
"""Lines of /proc/cpuinfo that say which instructions there are, and how fast they are."""


class Memory:
    """The outcomes in `folder`, which is made when it is needed. Without a folder, nothing is remembered.

    What can't be read or written is as if it were not there: the trial is made again.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One trial at a time on this machine: they would slow each other down, and the first one helps the next."""
        fd = self._lock()
        try:
            yield
        finally:
            if fd is not None:
                os.close(fd)

    def recall(self, about: Mapping[str, object]) -> EngineTrial | None:
        """The outcome of a trial of the same model under the same circumstances."""
        if self._folder is None:
            return None
        try:
            return msgspec.json.decode((self._folder / _name(about)).read_bytes(), type=EngineTrial)
        except (OSError, msgspec.DecodeError, RecursionError):
            return None

    def keep(self, about: Mapping[str, object], outcome: EngineTrial) -> None:
        """Write it whole or not at all."""
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._write(self._folder / _name(about), msgspec.json.encode(outcome))
        except OSError as error:
            _log.warning("the trial's outcome cannot be kept, and is made again next time: %s", error)

    def _write(self, path: Path, content: bytes) -> None:
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(content)
            Path(name).replace(path)
        except OSError:
            with suppress(OSError):
                Path(name).unlink()
            raise

    def _lock(self) -> int | None:
        if self._folder is None:
            return None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            fd = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError:  # some network file systems have no locks
            os.close(fd)
            return None
        return fd


def circumstances() -> dict[str, object]:
    """The machine, and the versions of what takes part in a trial."""
    return {
        "processor": _processor(),
        "processors": len(os.sched_getaffinity(0)),
        "versions": {"pdserver": __version__, **_versions()},
    }


def _versions() -> dict[str, str]:
    """Of the packages that are installed, as the names of their folders say. importlib.metadata takes ten times as long
    to find them, which is much beside a small model."""
    versions: dict[str, str] = {}
    for folder in sys.path:
        with suppress(OSError):
            for name in os.listdir(folder):  # noqa: PTH208 (several times as fast)
                package, _, version = name.removesuffix(_INSTALLED).partition("-")
                if package in _PACKAGES and name.endswith(_INSTALLED):
                    versions.setdefault(package, version)
    return versions


def processor_name() -> str:
    """What people call the processor."""
    identity = _processor()
    named = (line.partition(":")[2].strip() for line in identity.splitlines() if line.startswith("model name"))
    return next(named, identity)


def of_files(model: Path, params: Path | None, checksums: Mapping[str, str]) -> dict[str, object]:
    """What tells a model from others: the checksums of its archive, else its program and what the disk says of its
    weights. Raises OSError."""
    if checksums:
        return {"files": dict(checksums)}
    found: dict[str, object] = {"program": hashlib.sha256(model.read_bytes()).hexdigest()}
    if params is not None:
        status = params.stat()
        found["weights"] = [status.st_size, status.st_mtime_ns]
    return found


def _processor() -> str:
    """The kind of processor that this machine has."""
    try:
        with Path("/proc/cpuinfo").open() as file:  # it has as many paragraphs as there are processors
            first = file.read(_FIRST_PROCESSOR_BYTES).partition("\n\n")[0]
    except OSError:
        return platform.processor()
    lines = [line for line in first.splitlines() if line.partition("\t")[0].strip() in _IDENTITY]
    return "\n".join(" ".join(line.split()) for line in lines)


def _name(about: Mapping[str, object]) -> str:
    return hashlib.sha256(msgspec.json.encode(about, order="deterministic")).hexdigest() + _SUFFIX
