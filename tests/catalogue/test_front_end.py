"""F: the server itself is stopped, killed, frozen, or started in odd places. Each test has a server of its own."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import termios
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from pdserver.errors import ConfigError
from pdserver.store.run_directory import state_folder
from tests.conftest import Serve, fit_file, pack_handler
from tests.running import PDSERVER, RunningServer, clean_environment, eventually, lives, run_directory
from tests.security.raw import connect


def ask(server: RunningServer, model: str, **body: Any) -> requests.Response:
    return requests.post(f"{server.inference}/predictions/{model}", json=body, timeout=30)


def is_busy(server: RunningServer) -> bool:
    return 'state="busy"' in requests.get(f"{server.metrics}/metrics?name[]=pd_workers", timeout=10).text


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
        idle.settimeout(10)
        while idle.recv(4096):
            pass  # what is idle is hung up on at once
        with suppress(requests.ConnectionError):
            assert server.manage("POST", "/models?url=faults.pdar&model_name=more").status_code == 503
        assert server.process.wait(15) == 0


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
        server.process.wait(10)
    server.log_file.unlink()
    server.start()
    assert ask(server, "faults").ok, "what was registered is served again, at the same addresses"
    assert not run.exists(), "what it had unpacked is swept away"


@pytest.mark.catalogue("F10")
def test_a_second_server_on_the_same_addresses_ends_and_the_first_serves_on(store: Path, serve: Serve) -> None:
    pack_handler(store, "faults")
    server = serve()
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
@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGPWR, signal.SIGXCPU])
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
    assert server.process.wait(30) == 0


@pytest.mark.catalogue("F1")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
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
    assert server.process.wait(30) == 0
    assert "again" not in server.log()


@pytest.mark.catalogue("F4")
def test_a_server_that_loses_its_terminal_answers_what_it_has_and_ends(store: Path, tmp_path: Path) -> None:
    pack_handler(store, "faults")
    ours, theirs = os.openpty()

    def take_terminal() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    with started(store, tmp_path, start_new_session=True, preexec_fn=take_terminal) as server:
        os.close(theirs)
        assert ask(server, "faults").ok
        os.close(ours)
        assert server.process is not None
        assert server.process.wait(30) == 0


@pytest.mark.catalogue("F4")
def test_other_signals_lose_nothing_and_end_nothing(
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
        (tmp_path / "go").touch()
        assert (accepted.result().status_code, accepted.result().json()["nonce"]) == (200, 1)
    assert server.stop() == 0


@pytest.mark.catalogue("F4")
def test_under_nohup_it_outlives_its_terminal(store: Path, tmp_path: Path) -> None:
    pack_handler(store, "faults")
    with started(store, tmp_path, "nohup") as server:
        assert server.process is not None
        server.process.send_signal(signal.SIGHUP)
        server.process.send_signal(signal.SIGUSR1)
        eventually(lambda: "User defined signal 1: ignored" in (server.folder / "logs" / "pdserver.log").read_text())
        assert ask(server, "faults").ok


@contextmanager
def started(store: Path, tmp_path: Path, *through: str, **how: Any) -> Iterator[RunningServer]:
    """In the foreground, through another program; what it says is not looked at."""
    server = RunningServer(tmp_path / "server", store, "all", {"log_location": str(tmp_path / "server" / "logs")})
    server.log_file.touch()
    command = [*through, PDSERVER, "--start", "--foreground", "--pd-config", str(server.config)]
    how.setdefault("env", clean_environment())
    with server.log_file.open("wb") as log:
        server.process = subprocess.Popen(
            command, **{"cwd": server.folder, "stdin": log, "stdout": log, "stderr": log, **how}
        )

    def is_ready() -> bool:
        assert server.process is not None
        assert server.process.poll() is None, server.log()
        with suppress(requests.ConnectionError):
            return server.ping().ok and server.predict("faults", json={}).ok
        return False

    try:
        eventually(is_ready, 60)
        yield server
    finally:
        assert server.stop() == 0


@pytest.mark.catalogue("F13")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_it_serves_without_standard_streams(store: Path, tmp_path: Path, fit_model: Path, closed: str) -> None:
    pack_handler(store, "faults")
    pack_handler(store, "around")
    pack_handler(store, "base_handler", "fit", serialized_file=fit_file(fit_model))
    with started(store, tmp_path, "sh", "-c", f'exec "$0" "$@" {closed}') as server:
        assert server.predict("fit", json=[0.5] * 13).ok
        assert ask(server, "faults", op="answer", what="large").ok
        kinds = [name.partition(":")[0] for name in server.predict("around", "x").json()["descriptors"]]
        assert sorted(kinds) == ["/dev/null", "pipe", "pipe", "socket"]
        assert server.process is not None
        streams = [str(Path(f"/proc/{server.process.pid}/fd/{number}").readlink()) for number in range(3)]
        assert streams.count("/dev/null") == closed.count("-")


@pytest.mark.catalogue("F14")
@pytest.mark.parametrize("when", ["before", "while it runs"])
def test_the_working_directory_is_removed(store: Path, tmp_path: Path, fit_model: Path, when: str) -> None:
    pack_handler(store, "faults")
    pack_handler(store, "base_handler", "fit", serialized_file=fit_file(fit_model))
    where = tmp_path / "gone"
    where.mkdir()
    through = ["sh", "-c", 'rmdir "$PWD" && exec "$0" "$@"'] if when == "before" else []
    with started(store, tmp_path, *through, cwd=where) as server:
        if when != "before":
            where.rmdir()
        assert server.predict("fit", json=[0.5] * 13).ok
        [nursery] = {process.pid for process in server.family()} - server.pids("fit") - server.pids("faults")
        os.kill(nursery, signal.SIGKILL)
        server.logged("its workers serve on")
        assert server.manage("PUT", "/models/fit?min_worker=2&synchronous=true").ok, "the next nursery has Paddle, too"
        assert server.manage("POST", "/models?url=fit.pdar&model_name=more&initial_workers=1&synchronous=true").ok
        assert server.predict("more", json=[0.5] * 13).ok


@pytest.mark.catalogue("F14")
def test_an_odd_place_to_start(store: Path, tmp_path: Path) -> None:
    """No HOME, another language, an odd time zone, and no mask."""
    pack_handler(store, "faults")
    environment = {"PATH": os.environ["PATH"], "LANG": "C", "TZ": "Pacific/Chatham", "XDG_STATE_HOME": str(tmp_path)}
    with started(store, tmp_path, env=environment, umask=0) as server:
        assert ask(server, "faults", op="answer", what="object").status_code == 500
        assert server.manage("PUT", "/models/faults?min_worker=2&synchronous=true").ok
        folder = tmp_path / "pdserver"
        modes = {path.stat().st_mode & 0o077 for path in (folder, *folder.glob("run-*"))}
        assert modes == {0}, "nobody else can look into it"


@pytest.mark.soak
@pytest.mark.catalogue("F15")
@pytest.mark.skipif(os.getuid() != 0 or shutil.which("unshare") is None, reason="a namespace of processes needs root")
def test_as_the_first_process_of_a_container(store: Path, tmp_path: Path) -> None:
    pack_handler(store, "faults")
    server = RunningServer(tmp_path / "server", store, "all", {"stop_timeout": "5"})
    inside = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    with server.log_file.open("wb") as log:
        outer = subprocess.Popen(
            [*inside, PDSERVER, "--start", "--foreground", "--pd-config", str(server.config)],
            cwd=server.folder, env=clean_environment(), stdout=log, stderr=log,
        )  # fmt: skip
    try:
        eventually(lambda: "Model server started." in server.log() or outer.poll() is not None, 60)
        if outer.poll() is not None:
            pytest.skip(f"no namespace of processes here: {server.log()}")
        [first] = psutil.Process(outer.pid).children()
        for _ in range(3):
            assert ask(server, "faults", op="spawn", escape=True).ok
            ask(server, "faults", op="die")
        eventually(lambda: ask(server, "faults").ok)

        def zombies() -> list[psutil.Process]:
            return [child for child in first.children(recursive=True) if child.status() == psutil.STATUS_ZOMBIE]

        eventually(lambda: not zombies())
        first.terminate()
        assert outer.wait(20) == 0
    finally:
        outer.kill()
        outer.wait()


@pytest.mark.catalogue("S8")
def test_a_folder_that_somebody_else_has_put_there_is_not_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    (tmp_path / "file").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"pdserver-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="not a folder of this user's: set state_location"):
        state_folder(None)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if os.getuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.catalogue("S2", "S3", "S10")
def test_the_disk_is_full(store: Path, serve: Serve, small_disk: Path, tmp_path: Path) -> None:
    padding = tmp_path / "padding.bin"
    padding.write_bytes(os.urandom(9_000_000))
    pack_handler(store, "faults")
    pack_handler(store, "faults", name="large", extra_files=[padding])
    server = serve(models="", log_location=str(small_disk / "logs"), state_location=str(small_disk / "state"))
    assert server.manage("POST", "/models?url=faults.pdar&initial_workers=1&synchronous=true").ok
    snapshots = small_disk / "logs" / "config" / server.snapshots.name
    eventually(lambda: list(snapshots.glob("*-snapshot.cfg")))
    refused = server.manage("POST", "/models?url=large.pdar&initial_workers=1&synchronous=true")
    assert (refused.status_code, "cannot be unpacked" in refused.text) == (503, True), refused.text
    assert ask(server, "faults").ok
    before = {path.name: path.read_bytes() for path in snapshots.iterdir()}
    with (small_disk / "fill").open("wb") as file, suppress(OSError):
        while True:
            file.write(bytes(65536))
            file.flush()
    assert server.manage("PUT", "/models/faults?min_worker=2&synchronous=true").ok
    server.logged("no snapshot could be written")
    assert ask(server, "faults").ok
    assert {path.name: path.read_bytes() for path in snapshots.iterdir()} == before
    (small_disk / "fill").unlink()
    assert server.stop() == 0
    assert len(list(snapshots.glob("*-shutdown.cfg"))) == 1, "what failed is written at the end"
