"""Clients with one connection each that know what they are owed: one complete answer, their own."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_PATIENCE_SECONDS = 60.0


@dataclass
class Tally:
    """What became of the requests. `lost`: no complete answer, with how it broke off."""

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Another one's answer."""
    refused: int = 0
    """Connections that were not accepted: no request was."""
    seconds: list[float] = field(default_factory=list)
    """Of those that were answered 200, in the order of their ends."""

    def percentile_ms(self, share: float) -> float:
        ordered = sorted(self.seconds) or [0.0]
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Connection:
    """Opened when needed, and again when the server has closed it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None or self._streams[0].at_eof():
            self.close()
            self._streams = await asyncio.open_connection(self._host, self._port)
        return self._streams

    async def ask(self, model: str, body: bytes, headers: str = "") -> tuple[int, bytes]:
        """The status and the body of a complete answer. Raises OSError or EOFError."""
        reader, writer = await self.open()
        writer.write(
            f"POST /predictions/{model} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            f"Content-Type: application/json\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))
        answer = await reader.readexactly(length)
        if b"connection: close" in lines:
            self.close()
        return int(head[9:12]), answer

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


_numbers = itertools.count()


async def ask(tally: Tally, connection: Connection, model: str, headers: str = "", **body: object) -> int:
    """One request, noted. Gives its status; 0: it has none."""
    nonce = f"n{next(_numbers)}"
    try:
        await connection.open()
    except OSError:
        tally.refused += 1
        return 0
    tally.sent += 1
    began = time.monotonic()
    try:
        data = json.dumps({"nonce": nonce, **body}).encode()
        status, answer = await asyncio.wait_for(connection.ask(model, data, headers), _PATIENCE_SECONDS)
    except (OSError, EOFError, asyncio.TimeoutError) as error:
        tally.lost.append(f"{type(error).__name__}: {error}")
        connection.close()
        return 0
    tally.statuses[status] += 1
    if status == 200:
        tally.seconds.append(time.monotonic() - began)
        if json.loads(answer)["nonce"] != nonce:
            tally.wrong.append(nonce)
    elif status >= 500:
        tally.lost.append(f"{status} {answer.decode(errors='replace')}")
    return status


async def clients(
    tally: Tally, url: str, model: str, count: int, more: Callable[[], bool], *, new: bool = False
) -> None:
    """So many clients that ask without pause while there is to be more; `new`: each time over a new connection."""

    async def client() -> None:
        connection = Connection(url)
        while more():
            if not await ask(tally, connection, model):
                await asyncio.sleep(0.02)
            if new:
                connection.close()
        connection.close()

    await asyncio.gather(*(client() for _ in range(count)))
