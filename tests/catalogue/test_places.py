"""F and S: the server is started in odd places, or on a disk that gets full."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from pdserver.errors import ConfigError
from pdserver.store.run_directory import state_folder
from tests import disks
from tests.catalogue.asking import ask
from tests.conftest import Serve, fit_file, pack_handler
from tests.running import PDSERVER, RunningServer, clean_environment, eventually
from tests.without_paddle import without_paddle as without_paddle


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
        eventually(is_ready)
        yield server
    finally:
        assert server.stop() == 0


@pytest.mark.catalogue("F4")
@pytest.mark.usefixtures("without_paddle")
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
        assert server.process.wait(60) == 0


def check_streams(server: RunningServer, closed: str) -> None:
    assert ask(server, "faults", op="answer", what="large").ok
    kinds = [name.partition(":")[0] for name in server.predict("around", "x").json()["descriptors"]]
    assert sorted(kinds) == ["/dev/null", "pipe", "pipe", "socket"]
    assert server.process is not None
    streams = [str(Path(f"/proc/{server.process.pid}/fd/{number}").readlink()) for number in range(3)]
    assert streams.count("/dev/null") == closed.count("-")


@pytest.mark.catalogue("F13")
@pytest.mark.usefixtures("without_paddle")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_it_serves_without_one_of_the_standard_streams(store: Path, tmp_path: Path, closed: str) -> None:
    pack_handler(store, "faults")
    pack_handler(store, "around")
    with started(store, tmp_path, "sh", "-c", f'exec "$0" "$@" {closed}') as server:
        check_streams(server, closed)


@pytest.mark.catalogue("F13", "F14")
def test_without_standard_streams_in_a_removed_directory_it_has_paddle(
    store: Path, tmp_path: Path, fit_model: Path
) -> None:
    pack_handler(store, "faults")
    pack_handler(store, "around")
    pack_handler(store, "base_handler", "fit", serialized_file=fit_file(fit_model))
    where = tmp_path / "gone"
    where.mkdir()
    closed = "<&- >&- 2>&-"
    through = ["sh", "-c", f'rmdir "$PWD" && exec "$0" "$@" {closed}']
    # Coverage asks for the working directory.
    environment = {name: value for name, value in clean_environment().items() if name != "PYTHON_COVERAGE"}
    with started(store, tmp_path, *through, cwd=where, env=environment) as server:
        assert not where.exists()
        assert server.predict("fit", json=[0.5] * 13).ok
        check_streams(server, closed)
        check_next_nursery(server, "fit", [0.5] * 13)


def check_next_nursery(server: RunningServer, model: str, example: Any) -> None:
    """When the nursery is killed, there is another, which makes workers of what is served and of what is new."""
    workers = {
        pid for each in server.manage("GET", "/models").json()["models"] for pid in server.pids(each["modelName"])
    }
    [nursery] = {process.pid for process in server.behind()} - workers
    os.kill(nursery, signal.SIGKILL)
    eventually(lambda: "its workers serve on" in (server.folder / "logs" / "pdserver.log").read_text())
    assert server.manage("PUT", f"/models/{model}?min_worker=2&synchronous=true").ok
    assert server.manage("POST", f"/models?url={model}.pdar&model_name=more&initial_workers=1&synchronous=true").ok
    assert server.predict("more", json=example).ok


@pytest.mark.catalogue("F14")
@pytest.mark.usefixtures("without_paddle")
def test_the_working_directory_is_removed_while_it_runs(store: Path, tmp_path: Path) -> None:
    pack_handler(store, "faults")
    where = tmp_path / "gone"
    where.mkdir()
    with started(store, tmp_path, cwd=where) as server:
        where.rmdir()
        assert server.predict("faults", json={}).ok
        check_next_nursery(server, "faults", {})


@pytest.mark.catalogue("F4", "F14")
@pytest.mark.usefixtures("without_paddle")
def test_an_odd_place_to_start(store: Path, tmp_path: Path) -> None:
    """No HOME, another language, an odd time zone, no mask; and under nohup, so that it outlives its terminal."""
    pack_handler(store, "faults")
    environment = {"PATH": os.environ["PATH"], "LANG": "C", "TZ": "Pacific/Chatham", "XDG_STATE_HOME": str(tmp_path)}
    environment["PYTHONPATH"] = os.environ["PYTHONPATH"]  # there is no Paddle
    with started(store, tmp_path, "nohup", env=environment, umask=0) as server:
        assert ask(server, "faults", op="answer", what="object").status_code == 500
        assert server.manage("PUT", "/models/faults?min_worker=2&synchronous=true").ok
        folder = tmp_path / "pdserver"
        modes = {path.stat().st_mode & 0o077 for path in (folder, *folder.glob("run-*"))}
        assert modes == {0}, "nobody else can look into it"

        assert server.process is not None
        server.process.send_signal(signal.SIGHUP)
        server.process.send_signal(signal.SIGUSR1)
        eventually(lambda: "User defined signal 1: ignored" in (server.folder / "logs" / "pdserver.log").read_text())
        assert ask(server, "faults").ok


@pytest.mark.soak
@pytest.mark.catalogue("F15")
@pytest.mark.skipif(os.getuid() != 0 or shutil.which("unshare") is None, reason="a namespace of processes needs root")
@pytest.mark.usefixtures("without_paddle")
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
        eventually(lambda: "Model server started." in server.log() or outer.poll() is not None)
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
        assert outer.wait(60) == 0
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
    with disks.small(tmp_path / "small", 8) as folder:
        yield folder


@pytest.mark.catalogue("S2", "S3", "S10")
@pytest.mark.usefixtures("without_paddle")
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
