"""The demo's own `pdserver`: a child process that ends with the demo, however that ends."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

START_SECONDS = 90.0
STOP_SECONDS = 30.0
LOG_TAIL_LINES = 15
STARTED = "Model server started."
"""The server prints this when its ports are open and its models are loaded or have failed to load."""


class DemoError(Exception):
    """The demo cannot go on; the text says why and what to do."""


@dataclass(frozen=True)
class Addresses:
    inference: str
    management: str
    metrics: str


def addresses(port: int) -> Addresses:
    """Three ports in a row on loopback, or three free ones if `port` is 0; raises DemoError if one is in use."""
    wanted = [0, 0, 0] if port == 0 else [port, port + 1, port + 2]
    sockets = [socket.socket() for _ in wanted]
    try:
        for candidate, number in zip(sockets, wanted, strict=True):
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind(("127.0.0.1", number))
            except OSError as error:
                raise DemoError(f"port {number}: {error.strerror}; choose three others: make demo PORT=9080") from error
        return Addresses(*(f"http://127.0.0.1:{candidate.getsockname()[1]}" for candidate in sockets))
    finally:
        for candidate in sockets:
            candidate.close()


@contextmanager
def serving(folder: Path, at: Addresses, models: Sequence[str]) -> Iterator[None]:
    """These models of `folder`/store, ready to answer; the server's log goes to `folder`/server.log."""
    if not (folder / "store").is_dir():
        raise DemoError(f"{folder / 'store'} does not exist; `make demo` packs the archives into it")
    log = folder / "server.log"
    command = [
        str(Path(sys.executable).with_name("pdserver")),
        "--start",
        "--foreground",
        "--model-store=store",
        f"--models={','.join(f'{model}.pdar' for model in models)}",
        f"--inference-address={at.inference}",
        f"--management-address={at.management}",
        f"--metrics-address={at.metrics}",
        "--enable-grpc=false",
    ]
    with log.open("wb") as output:
        # In a session of its own, so that Ctrl-C reaches only the demo, which then stops the server in good order.
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        _wait_until_ready(process, at, log)
        yield
    finally:
        _stop(process)


def _wait_until_ready(process: subprocess.Popen[bytes], at: Addresses, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if STARTED in log.read_text(errors="replace"):
            if requests.get(f"{at.inference}/ping", timeout=5).ok:
                return
            raise DemoError(f"the server started, but not all of its models did; {_end_of(log)}")
        time.sleep(0.05)
    if process.poll() is None:
        raise DemoError(f"the server was not ready after {START_SECONDS:.0f} seconds; {_end_of(log)}")
    raise DemoError(f"the server ended with status {process.returncode}; {_end_of(log)}")


def _end_of(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    return "\n".join([f"the end of its log, {log}:", *lines])


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
