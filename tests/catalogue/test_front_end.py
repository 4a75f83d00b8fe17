"""F: the server itself is stopped, killed or frozen. A test that ends its server has one of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest
import requests

from tests.catalogue.asking import ask
from tests.conftest import Lent, Serve, pack_handler
from tests.running import PDSERVER, RunningServer, clean_environment, eventually, lives, run_directory
from tests.security.raw import connect
from tests.without_paddle import without_paddle as without_paddle

pytestmark = pytest.mark.usefixtures("without_paddle")


def is_busy(server: RunningServer) -> bool:
    return 'state="busy"' in requests.get(f"{server.metrics}/metrics?name[]=pd_workers", timeout=60).text


@pytest.fixture
def held(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A request that stays in its handler until the test's end."""
    yield {"op": "wait_for", "begun": str(tmp_path / "begun"), "go": str(tmp_path / "go")}
    (tmp_path / "go").touch()


@pytest.mark.catalogue("F2", "F8")
def test_it_is_frozen_for_a_while_and_then_stopped_with_a_handler_that_hangs(
    store: Path, serve: Serve, tmp_path: Path, held: dict[str, str]
) -> None:
    pack_handler(store, "faults", config="responseTimeout: 60\n")
    server = serve(stop_timeout="2")
    assert server.process is not None
    before = server.pids("faults")
    with ThreadPoolExecutor(2) as threads:
        first = {name: str(tmp_path / f"first-{name}") for name in ("begun", "go")}
        frozen = threads.submit(ask, server, "faults", op="wait_for", **first)
        eventually(Path(first["begun"]).exists)
        server.process.send_signal(signal.SIGSTOP)
        Path(first["go"]).touch()
        time.sleep(1)
        server.process.send_signal(signal.SIGCONT)
        assert frozen.result().status_code == 200
        assert server.pids("faults") == before

        busy = threads.submit(ask, server, "faults", **held)
        eventually((tmp_path / "begun").exists)
        waiting = threads.submit(ask, server, "faults")
        eventually(lambda: server.describe("faults")["jobQueueStatus"]["pendingRequests"] == 1)
        assert server.stop() == 0
        for answer in (busy.result(), waiting.result()):
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


@pytest.mark.catalogue("F3", "L8")
def test_clients_that_do_not_come_to_an_end_do_not_keep_the_server(store: Path, serve: Serve) -> None:
    pack_handler(store, "faults")
    server = serve(stop_timeout="2")
    with (
        closing(connect(server.inference)) as idle,
        closing(connect(server.inference)) as half,
        closing(connect(server.inference)) as slow,
    ):
        idle.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(100).startswith(b"HTTP/1.1 200")
        half.sendall(b"POST /predictions/faults HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = b'{"op": "answer", "what": "large"}'
        slow.sendall(
            b"POST /predictions/faults HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        assert slow.recv(100).startswith(b"HTTP/1.1 200")
        assert server.process is not None
        server.process.terminate()
        server.logged("stopping")
        idle.settimeout(60)
        while idle.recv(4096):
            pass  # what is idle is hung up on at once
        with suppress(requests.ConnectionError):
            assert server.manage("POST", "/models?url=faults.pdar&model_name=more").status_code == 503
        assert server.process.wait(60) == 0


@pytest.mark.catalogue("F5", "F6", "F7", "S9")
@pytest.mark.parametrize(
    "how", ["killed with its group", *(pytest.param(how, marks=pytest.mark.soak) for how in ("killed", "crashed"))]
)
def test_nothing_is_left_of_a_server_that_is_killed_and_the_next_one_goes_on(
    store: Path, serve: Serve, tmp_path: Path, how: str
) -> None:
    pack_handler(store, "faults", config="responseTimeout: 60\n")
    server = serve(models="")
    assert server.manage("POST", "/models?url=faults.pdar&initial_workers=2&synchronous=true").ok
    eventually(lambda: list(server.snapshots.glob("*-snapshot.cfg")))
    assert server.process is not None
    children = [ask(server, "faults", op="spawn", escape=escape).json()["child"] for escape in (False, True)]
    family = [*server.family(), *map(psutil.Process, children)]
    run = run_directory(server.process.pid)
    with ThreadPoolExecutor(1) as threads:
        threads.submit(ask, server, "faults", op="spin")  # holds the interpreter's lock
        eventually(lambda: is_busy(server))
        if how == "killed with its group":
            os.killpg(server.process.pid, signal.SIGKILL)
        else:
            server.process.send_signal(signal.SIGKILL if how == "killed" else signal.SIGSEGV)
        eventually(lambda: not any(map(lives, family)))
        server.process.wait(60)
    server.log_file.unlink()
    server.start()
    assert ask(server, "faults").ok, "what was registered is served again, at the same addresses"
    assert not run.exists(), "what it had unpacked is swept away"


@pytest.mark.catalogue("F10")
def test_a_second_server_on_the_same_addresses_ends_and_the_first_serves_on(lent: Lent) -> None:
    server = lent("faults")
    second = subprocess.run(
        [PDSERVER, "--start", "--foreground", "--pd-config", str(server.config)],
        cwd=server.folder, env=clean_environment(), timeout=60, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert second.returncode != 0
    assert "already running" in second.stderr
    assert ask(server, "faults").ok


@pytest.mark.catalogue("F4", "F12", "F13", "S7")
def test_its_output_and_its_archive_go_and_its_terminal_hangs_up(store: Path, tmp_path: Path) -> None:
    archive = pack_handler(store, "faults")
    server = RunningServer(tmp_path / "server", store, "all")
    process = subprocess.Popen(
        [PDSERVER, "--start", "--foreground", "--pd-config", str(server.config)],
        cwd=server.folder, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    server.process = process
    try:
        assert process.stdout is not None
        while b"Model server started." not in process.stdout.readline():
            assert process.poll() is None
        process.stdout.close()
        for number in range(20):
            assert ask(server, "faults", op="imitate" if number % 2 else "fail").status_code in (200, 500)
        process.send_signal(signal.SIGPIPE)
        archive.unlink()
        assert server.manage("PUT", "/models/faults?min_worker=2&synchronous=true").ok
        eventually(lambda: server.metric("pd_event_loop_lag_seconds_count") > 2)
    finally:
        assert server.stop() == 0


@pytest.mark.catalogue("F4")
@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGPWR])
def test_signals_that_ask_for_an_end_lose_nothing(
    store: Path, serve: Serve, tmp_path: Path, held: dict[str, str], number: signal.Signals
) -> None:
    pack_handler(store, "faults")
    server = serve()
    assert server.process is not None
    with ThreadPoolExecutor(1) as threads:
        accepted = threads.submit(ask, server, "faults", nonce=1, **held)
        eventually((tmp_path / "begun").exists)
        server.process.send_signal(number)
        server.logged(f"{number.name}: stopping")
        (tmp_path / "go").touch()
        assert (accepted.result().status_code, accepted.result().json()["nonce"]) == (200, 1)
    assert server.process.wait(60) == 0


@pytest.mark.catalogue("F1")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_to_every_process_and_twice_to_the_server_loses_nothing(
    store: Path, serve: Serve, tmp_path: Path, held: dict[str, str], number: signal.Signals
) -> None:
    """As systemd sends it, and a shell whose child passes it on."""
    pack_handler(store, "faults")
    server = serve()
    with ThreadPoolExecutor(1) as threads:
        accepted = threads.submit(ask, server, "faults", nonce=1, **held)
        eventually((tmp_path / "begun").exists)
        assert server.process is not None
        pid = server.process.pid
        for each in (pid, *(process.pid for process in server.family()), pid):
            os.kill(each, number)
        server.logged(f"{number.name}: stopping")
        (tmp_path / "go").touch()
        assert (accepted.result().status_code, accepted.result().json()["nonce"]) == (200, 1)
    assert server.process.wait(60) == 0
    assert "again" not in server.log()


@pytest.mark.catalogue("F4")
def test_signals_to_every_process_that_stop_nothing_end_none(store: Path, serve: Serve) -> None:
    """As `systemctl kill -s HUP` sends them, for servers that then open their logs again."""
    pack_handler(store, "faults")
    server = serve()
    family = server.family()
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        for process in family:
            process.send_signal(number)
        assert ask(server, "faults", nonce=1).status_code == 200
    assert {process.pid for process in server.family()} == {process.pid for process in family}


@pytest.mark.catalogue("F4")
def test_other_signals_end_nothing_before_one_that_asks_for_an_end(
    store: Path, serve: Serve, tmp_path: Path, held: dict[str, str]
) -> None:
    pack_handler(store, "faults")
    server = serve()
    assert server.process is not None
    crashes = {*range(signal.SIGILL, signal.SIGUSR1), signal.SIGSEGV, signal.SIGSYS, signal.SIGSTOP}
    asks = {signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGPWR, signal.SIGXCPU}
    terminal = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
    with ThreadPoolExecutor(1) as threads:
        accepted = threads.submit(ask, server, "faults", nonce=1, **held)
        eventually((tmp_path / "begun").exists)
        for number in signal.valid_signals() - crashes - asks - terminal:
            server.process.send_signal(number)
        server.logged("User defined signal 1: ignored")
        server.logged("Hangup: ignored")
        assert server.ping().ok
        server.process.send_signal(signal.SIGXCPU)
        server.logged("SIGXCPU: stopping")
        (tmp_path / "go").touch()
        assert (accepted.result().status_code, accepted.result().json()["nonce"]) == (200, 1)
    assert server.process.wait(60) == 0
