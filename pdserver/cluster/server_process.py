"""A node's pdserver: a child process that ends with this one, however this one ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import aiohttp

from pdserver.cluster.reasons import reason
from pdserver.configuration.values import address
from pdserver.errors import PdError, Unavailable
from pdserver.formats.properties import escaped
from pdserver.server.status import ask
from pdserver.store.run_directory import PidFile
from pdserver.system.folders import make_folder

_ASK_SECONDS = 1.5
_LAST_WORDS_BYTES = 2_000
_CALL = aiohttp.ClientTimeout(total=None, connect=5)
"""A call waits until workers are ready or have failed, which the server limits."""
_NOT_ITS_OWN = re.compile("(PD|TS|RAY)_|PYTHONBREAKPOINT")


class ServerProcess:
    """At most one server at a time. `start` may be called again once it has ended."""

    def __init__(self, folder: Path, environment: Mapping[str, str], directory: str) -> None:
        """`environment` are its PD_ and TS_ variables. It runs in `directory` if there is one, where relative paths of
        its settings begin."""
        self._folder = folder
        self._settings: Mapping[str, str] = {}
        self._environment = environment
        self._directory = directory if directory and Path(directory).is_dir() else str(folder)
        token = environment.get("PD_ADMIN_TOKEN") or environment.get("PD_MANAGEMENT_TOKEN") or ""
        self._headers = {"authorization": f"Bearer {token.partition(',')[0]}"} if token else {}
        self._process: subprocess.Popen[bytes] | None = None
        self._ended: asyncio.Future[int] | None = None
        self._life = -1
        self._words_from = 0
        self._session: aiohttp.ClientSession | None = None
        self.started: Mapping[str, Any] = {}
        """What it said of its start: a `server.main.Started`."""

    @property
    def pid(self) -> int:
        """0: it does not run."""
        return self._process.pid if self._process is not None and self.runs else 0

    @property
    def runs(self) -> bool:
        return self._ended is not None and not self._ended.done()

    @property
    def addresses(self) -> Mapping[str, str]:
        """Where it listens; empty before its first start."""
        told: Mapping[str, str] = self.started.get("addresses", {})
        return told

    async def start(self, settings: Mapping[str, str]) -> None:
        """Returns when the server is ready. `settings` are those of config.properties. Raises Unavailable with what it
        said if it can't start."""
        self._settings = settings
        await self._close()
        ready, its_ready = os.pipe()
        its_life, self._life = os.pipe()
        with os.fdopen(ready, "rb") as pipe:
            try:
                process = self._process = self._begun(its_ready, its_life)
            except OSError as error:
                raise Unavailable(f"the server does not start: {error}") from None
            finally:
                os.close(its_ready)
                os.close(its_life)
            self._ended = _watched(process)
            await self._await_ready(pipe)

    def _begun(self, ready: int, life: int) -> subprocess.Popen[bytes]:
        """Raises OSError, as when the disk is full."""
        make_folder(self._folder, 0o700)
        config = self._folder / "config.properties"
        config.write_text("".join(f"{key}={escaped(value)}\n" for key, value in self._settings.items()))
        command = [sys.executable, "-m", "pdserver", "--foreground", "--pd-config", str(config)]
        command += ["--ready-fd", str(ready), "--life-fd", str(life)]
        with self._output_path.open("ab") as output:
            self._words_from = output.tell()
            return subprocess.Popen(
                command,
                cwd=self._directory,
                env=_environment(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[ready, life],
                start_new_session=True,
            )

    async def _await_ready(self, pipe: BinaryIO) -> None:
        try:
            report = await asyncio.to_thread(_report, pipe)
        except asyncio.CancelledError:
            await self.kill()
            raise
        if report is None:
            status = await self.wait()
            raise Unavailable(f"the server does not start: {self._last_words() or f'it ended with status {status}'}")
        if "error" in report:
            await self.wait()
            raise Unavailable(f"the server does not start: {report['error']}")
        self.started = report
        self._session = aiohttp.ClientSession(
            _reached_here(report["addresses"]["management"]),
            headers=self._headers,
            timeout=_CALL,
        )

    async def wait(self) -> int:
        """Until it has ended. Returns its exit status."""
        return 0 if self._ended is None else await asyncio.shield(self._ended)

    async def stop(self) -> None:
        """Let it answer what it took, and end; kill it if that takes too long. Idempotent."""
        patience_seconds = float(self._settings.get("stop_timeout") or 25) + 10
        self.signal(signal.SIGTERM)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.wait(), patience_seconds)
        await self.kill()

    async def kill(self) -> None:
        """Idempotent."""
        self.signal(signal.SIGKILL)
        await self.wait()
        await self._close()

    async def ask(self) -> Mapping[str, Any]:
        """What it serves: a `server.main.Started`. Raises Unavailable when it does not say."""
        told = await asyncio.to_thread(ask, self._status_path, _ASK_SECONDS) if self.runs else None
        if told is None:
            raise Unavailable(
                "the node's server does not run" if not self.runs else "the node's server does not answer"
            )
        return told

    async def manage(self, method: str, path: str, **parameters: str) -> Any:
        """A call of its management API. Raises Unavailable with the server's words when it refuses or has gone."""
        if self._session is None or not self.runs:
            raise Unavailable("the node's server does not run")
        try:
            tls = _tls_to_itself(self._settings, self._directory)  # of the certificate as it is now
            async with self._session.request(method, path, params=parameters, ssl=tls) as answer:
                said = await answer.json(content_type=None)
        except (aiohttp.ClientError, ValueError, OSError) as error:
            raise Unavailable(f"the node's server has not answered: {error or type(error).__name__}") from None
        if answer.status >= 400:
            raise Refused(said.get("message", "") if isinstance(said, dict) else str(said), answer.status)
        return said

    def signal(self, number: int) -> None:
        """Without effect when it does not run."""
        if self._process is not None and self.runs:
            self._process.send_signal(number)

    async def _close(self) -> None:
        """What was for a server that has ended."""
        if self._life >= 0:
            os.close(self._life)
            self._life = -1
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def _status_path(self) -> Path:
        where = address(self._settings["management_address"])
        return PidFile.of(Path(self._settings["state_location"]).resolve(), where).socket

    @property
    def _output_path(self) -> Path:
        return self._folder / "pdserver.out"

    def _last_words(self) -> str:
        words = self._output_path.read_bytes()[self._words_from :]
        return reason(words[-_LAST_WORDS_BYTES:].decode(errors="replace")).removeprefix("pdserver: ")


class Refused(PdError):
    """The server has refused a call, with this HTTP status."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


def _reached_here(url: str) -> str:
    """The URL by which this machine reaches a server that may listen everywhere."""
    where = address(url)
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(where.host)  # noqa: S104 (it is asked, and not opened)
    return str(replace(where, host=loopback) if loopback else where)


def _tls_to_itself(settings: Mapping[str, str], directory: str) -> ssl.SSLContext:
    """Whatever the server shows is believed, since nobody else can answer there. It is shown its own certificate if it
    asks for one. Raises Unavailable."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        if certificate := settings.get("certificate_file"):
            context.load_cert_chain(Path(directory, certificate), Path(directory, settings["private_key_file"]))
    except OSError as error:  # they have changed since the server read them
        raise Unavailable(f"the server's certificate can't be used: {error}") from None
    return context


def _watched(process: subprocess.Popen[bytes]) -> asyncio.Future[int]:
    """The exit status, once the process has ended."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()
    fd = os.pidfd_open(process.pid)

    def reap() -> None:
        loop.remove_reader(fd)
        os.close(fd)
        ended.set_result(process.wait())

    loop.add_reader(fd, reap)
    return ended


def _report(pipe: BinaryIO) -> dict[str, Any] | None:
    """What the server says of its start; None if it ends without a word."""
    for line in pipe:
        report: dict[str, Any] = json.loads(line)
        if "progress" not in report:
            return report
    return None


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    """Of this process, without what was meant for it alone, and with `own`."""
    others = {name: value for name, value in os.environ.items() if not _NOT_ITS_OWN.match(name)}
    if "RAY_JOB_ID" in os.environ:
        others.pop("OMP_NUM_THREADS", None)  # Ray has set it, for a worker of its own
    return {**others, **own}
