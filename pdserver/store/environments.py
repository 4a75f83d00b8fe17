"""Virtual environments for archives that bring requirements, shared by all that require the same.

An environment is a folder under `venv_location`, named by the hash of what makes it: the requirements, this Python and
where it is installed. What the server itself can import, Paddle above all, can be imported in it as well; only what is
not there in the right version is installed. It stays when its models go, for the next one, and is never changed again.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import importlib.util
import logging
import os
import re
import shutil
import signal
import site
import sys
from collections import deque
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from pdserver.configuration.model import ModelSpec
from pdserver.errors import ArchiveUnusable, Unavailable
from pdserver.system.folders import make_folder

_log = logging.getLogger("pdserver.environments")
_COMPLETE = "complete"
"""A file that is there once everything is installed."""
_LAST_LINES = 10
_LOCK_POLL_SECONDS = 0.2
_MAX_LINE_BYTES = 16 * 1024 * 1024
_URL = re.compile(r"\b(https?|git\+https?)://\S+")
_MAY_BE_A_FILE = re.compile(r"^\s*-|[/\\]|\.(whl|zip|tar\.\w+)\s*$", re.MULTILINE)
"""Options, paths and names of packages' files: what these lines mean depends on the archive."""


class Environments:
    """Makes environments in the folder `location`. `for_all`: also for models that don't say useVenv."""

    def __init__(self, location: Path, *, for_all: bool, timeout_seconds: float) -> None:
        self._location = location.resolve()
        self._for_all = for_all
        self._timeout_seconds = timeout_seconds

    async def python(self, spec: ModelSpec, requirements_file: str | None, digest: str) -> str:
        """The interpreter for a model's workers, "" for the server's own; `digest` is the archive's.

        May take minutes. Raises ArchiveUnusable when the requirements can't be installed, Unavailable when there is
        no place to install them to.
        """
        if requirements_file is None:
            return ""
        if not (self._for_all or spec.use_venv):
            _log.warning(
                "%s: the archive's %s is not installed: set install_py_dep_per_model=true in config.properties, or "
                "useVenv: true in the model's config file",
                spec.ref,
                requirements_file,
            )
            return ""
        path = _find(spec, requirements_file)
        environment = self._location / _key(path.read_bytes(), digest)
        try:
            make_folder(self._location, 0o700)
            async with self._locked(environment) as lock_fd:
                if not await asyncio.to_thread(_is_whole, environment):
                    await self._make(environment, spec, path, lock_fd)
        except OSError as error:
            raise Unavailable(f"venv_location={self._location}: {error.strerror}: {spec.ref} has no place") from None
        return str(environment / "bin" / "python")

    @contextlib.asynccontextmanager
    async def _locked(self, environment: Path) -> AsyncIterator[int]:
        """Nobody else makes this environment meanwhile: no other model, no other server."""
        fd = os.open(f"{environment}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(_LOCK_POLL_SECONDS)
            yield fd
        finally:
            os.close(fd)

    async def _make(self, environment: Path, spec: ModelSpec, requirements: Path, lock_fd: int) -> None:
        _log.info("%s: installing %s to %s", spec.ref, requirements.name, environment)
        await asyncio.to_thread(_make_empty, environment)
        own_pip = ["--without-pip"] if importlib.util.find_spec("pip") else []
        python = str(environment / "bin" / "python")
        pip = ["-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--progress-bar", "off"]
        last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        try:
            for command in (
                [sys.executable, "-m", "venv", "--system-site-packages", *own_pip, str(environment)],
                [python, "-c", _INHERIT, *_site_folders()],
                [python, *pip, "--upgrade-strategy", "only-if-needed", "-r", str(requirements)],
            ):
                await asyncio.wait_for(_run(command, spec, lock_fd, last_lines), self._timeout_seconds)
        except asyncio.TimeoutError:
            limit = f"not done within {self._timeout_seconds:g} s (install_py_dep_timeout)"
            raise _failed(spec, limit, last_lines) from None
        except ChildProcessError as error:
            raise _failed(spec, str(error), last_lines) from None
        (environment / _COMPLETE).touch()
        _log.info("%s: installed %s", spec.ref, requirements.name)


_INHERIT = """
import site, sys
with open(site.getsitepackages()[0] + "/pdserver_inherited.pth", "w") as file:
    file.writelines(f"import site; site.addsitedir({folder!r})\\n" for folder in sys.argv[1:])
"""
"""The server may run in an environment of its own, which --system-site-packages passes over."""


def _is_whole(environment: Path) -> bool:
    return (environment / _COMPLETE).is_file() and (environment / "bin" / "python").exists()


def _make_empty(environment: Path) -> None:
    """venv and pip go by the umask, so the folder itself keeps others out. Raises OSError."""
    shutil.rmtree(environment, ignore_errors=True)
    environment.mkdir(mode=0o700)


def _site_folders() -> list[str]:
    return [folder for folder in (*site.getsitepackages(), site.getusersitepackages()) if folder in sys.path]


def _find(spec: ModelSpec, requirements_file: str) -> Path:
    directory = Path(spec.directory).resolve()
    path = (directory / requirements_file).resolve()
    if not path.is_relative_to(directory) or not path.is_file():
        raise ArchiveUnusable(f"{spec.url}: {requirements_file}: no such file in the archive")
    return path


def _key(requirements: bytes, digest: str) -> str:
    makings = [requirements, sys.version.encode(), sys.prefix.encode()]
    if _MAY_BE_A_FILE.search(_URL.sub("", requirements.decode("utf-8", "replace"))):
        makings.append(digest.encode())
    return hashlib.sha256(b"\0".join(makings)).hexdigest()[:32]


async def _run(command: Sequence[str], spec: ModelSpec, lock_fd: int, last_lines: deque[str]) -> None:
    """Run it in the archive's folder, each line of its output to the log. Raises ChildProcessError when it fails.

    The lock goes along: should this server be killed, the next one waits until the process has ended, too.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=spec.directory,
        limit=_MAX_LINE_BYTES,
        start_new_session=True,
        pass_fds=[lock_fd],
    )
    assert process.stdout is not None  # noqa: S101
    try:
        async for data in process.stdout:
            line = data.decode("utf-8", "backslashreplace").rstrip()
            _log.info("%s | %s", spec.ref, line)
            last_lines.append(line)
        status = await process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    if status:
        raise ChildProcessError(f"{' '.join(command[1:3])} ended with status {status}")


def _failed(spec: ModelSpec, why: str, last_lines: Sequence[str]) -> ArchiveUnusable:
    """With pip's own error, if it named one; the log has all that it said."""
    said = next((f": {line}" for line in reversed(last_lines) if line.startswith("ERROR: ")), "")
    return ArchiveUnusable(f"Custom pip package installation failed for model {spec.name}: {why}{said}")
