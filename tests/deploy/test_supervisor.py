"""What systemd is told: that the server is ready, that it lives, and that it stops."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pdserver.configuration.loading import load_config
from tests.conftest import Serve, pack_handler
from tests.without_paddle import without_paddle as without_paddle


class Supervisor:
    """Reads what it is told at once, as systemd does: a socket holds a few messages only."""

    def __init__(self, name: str) -> None:
        self._messages: queue.Queue[str] = queue.Queue()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(name)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while message := self._sock.recv(4096):
            self._messages.put(message.decode())

    def until(self, message: str) -> list[str]:
        """All messages up to this one."""
        heard = [self._messages.get(timeout=60)]
        while heard[-1] != message:
            heard.append(self._messages.get(timeout=60))
        return heard

    def close(self) -> None:
        """Idempotent."""
        if self._thread.is_alive():
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.sendto(b"", self._sock.getsockname())
            self._thread.join()
        self._sock.close()


@pytest.fixture
def supervise(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Supervisor]]:
    """Make a supervisor of an address; the other word is how its variable has that."""
    with ExitStack() as stack:

        def make(address: str, variable: str) -> Supervisor:
            monkeypatch.setenv("NOTIFY_SOCKET", variable)
            monkeypatch.setenv("WATCHDOG_USEC", "200000")
            monkeypatch.delenv("WATCHDOG_PID", raising=False)
            supervisor = Supervisor(address)
            stack.callback(supervisor.close)
            return supervisor

        yield make


@pytest.mark.usefixtures("without_paddle")
def test_systemd_is_told(
    supervise: Callable[[str, str], Supervisor], serve: Serve, store: Path, tmp_path: Path
) -> None:
    address = str(tmp_path / "notify")
    systemd = supervise(address, address)
    pack_handler(store, "chaos")
    server = serve()
    assert set(systemd.until("READY=1\nSTATUS=1 served")[:-1]) <= {"WATCHDOG=1"}
    assert server.ping().status_code == 200
    systemd.until("WATCHDOG=1")
    for process in server.family():
        assert "NOTIFY_SOCKET" not in process.environ()  # nobody else speaks for the server
    server.stop()
    assert set(systemd.until("STOPPING=1")[:-1]) <= {"WATCHDOG=1"}


@pytest.mark.usefixtures("without_paddle")
def test_an_abstract_socket_and_one_that_is_gone(supervise: Callable[[str, str], Supervisor], serve: Serve) -> None:
    name = f"pdserver-{os.getpid()}-notify"
    systemd = supervise(f"\0{name}", f"@{name}")
    server = serve()
    assert systemd.until("READY=1\nSTATUS=0 served")
    systemd.close()
    assert server.stop() == 0  # though nobody listens any more


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"), [("500000", "", 0.5), ("500000", "1", 0), ("", "", 0), ("soon", "", 0), ("-1", "", 0)]
)
def test_the_watchdog_may_be_meant_for_another_process(tmp_path: Path, usec: str, pid: str, seconds: float) -> None:
    environ = {"WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}
    assert load_config({"model_store": str(tmp_path)}, environ).watchdog_seconds == seconds
