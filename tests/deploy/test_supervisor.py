"""What systemd is told: that the server is ready, that it lives, and that it stops."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pdserver.configuration.loading import load_config
from tests.conftest import Serve, pack_handler
from tests.without_paddle import without_paddle as without_paddle


@pytest.fixture
def notified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket of a supervisor."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        path = str(tmp_path / "notify")
        sock.bind(path)
        sock.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        yield sock


def until(sock: socket.socket, message: str) -> list[str]:
    """All messages up to this one."""
    heard = [sock.recv(4096).decode()]
    while heard[-1] != message:
        heard.append(sock.recv(4096).decode())
    return heard


@pytest.mark.usefixtures("without_paddle")
def test_systemd_is_told(notified: socket.socket, serve: Serve, store: Path) -> None:
    pack_handler(store, "chaos")
    server = serve()
    assert set(until(notified, "READY=1\nSTATUS=1 served")[:-1]) == {"WATCHDOG=1"}
    assert server.ping().status_code == 200
    until(notified, "WATCHDOG=1")
    for process in server.family():
        assert "NOTIFY_SOCKET" not in process.environ()  # nobody else speaks for the server
    server.stop()
    assert set(until(notified, "STOPPING=1")[:-1]) <= {"WATCHDOG=1"}


@pytest.mark.usefixtures("without_paddle")
def test_an_abstract_socket_and_one_that_is_gone(monkeypatch: pytest.MonkeyPatch, serve: Serve, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        name = f"pdserver-{psutil.Process().pid}-notify"
        sock.bind(f"\0{name}")
        sock.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        server = serve()
        assert until(sock, "READY=1\nSTATUS=0 served")
    assert server.stop() == 0  # though nobody listens any more


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"), [("500000", "", 0.5), ("500000", "1", 0), ("", "", 0), ("soon", "", 0), ("-1", "", 0)]
)
def test_the_watchdog_may_be_meant_for_another_process(tmp_path: Path, usec: str, pid: str, seconds: float) -> None:
    environ = {"WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}
    assert load_config({"model_store": str(tmp_path)}, environ).watchdog_seconds == seconds
