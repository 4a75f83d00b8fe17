"""Where servers keep what is their own, and what cleaners can do to it."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import psutil
import pytest

from pdserver.configuration.loading import load_config
from pdserver.configuration.values import Address
from pdserver.errors import ConfigError, Conflict
from pdserver.store.run_directory import PidFile, RunDirectory, is_temporary, state_folder
from tests.conftest import Serve, pack_handler
from tests.running import PDSERVER, RunningServer, clean_environment, eventually, run_directory
from tests.without_paddle import without_paddle as without_paddle

pytestmark = pytest.mark.usefixtures("without_paddle")

# The state folder


def test_it_is_where_xdg_says_or_below_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    given = {"model_store": str(tmp_path)}
    for home, expected in ((str(tmp_path / "xdg"), tmp_path / "xdg"), ("relative", None), ("", None)):
        assert load_config(given, {"XDG_STATE_HOME": home}).xdg_state_home == expected
    assert state_folder(None, tmp_path / "xdg") == tmp_path / "xdg" / "pdserver"
    assert state_folder(None) == tmp_path / "home" / ".local" / "state" / "pdserver"
    assert state_folder(tmp_path / "mine") == tmp_path / "mine"
    for folder in ("home", "home/.local", "mine"):
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o700


def test_where_no_home_can_be_written_it_is_among_temporary_files_and_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd-tmpfiles passes over what is locked: flock(2) on a folder, together or alone."""
    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    state = state_folder(None)
    assert state == tmp_path / f"pdserver-{os.geteuid()}"
    assert is_temporary(state)
    run = RunDirectory(state)
    fd = os.open(state, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    run.close()
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_can_write_to_is_refused_with_the_fix(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(ConfigError, match=r"state_location=.*others can write to it .*: set state_location to"):
        state_folder(tmp_path)


def test_hosts_that_share_it_do_not_get_in_each_others_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid_files, runs = [], []
    address = Address("127.0.0.1", 8081)
    for host in ("a", "a-b"):
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        pid_files.append(PidFile.of(tmp_path, address))
        pid_files[-1].acquire(address)
        with pytest.raises(Conflict, match=f"pid {os.getpid()}.*--stop .*:8081"):
            PidFile.of(tmp_path, address).acquire(address)
        left = tmp_path / f"run-{host}-12345678"
        left.mkdir()
        foreign = tmp_path / "run-c-12345678"
        foreign.mkdir(exist_ok=True)
        runs.append(RunDirectory(tmp_path))
        assert not left.exists(), "what a killed server has left"
        assert foreign.exists(), "whether another host's server lives, nobody here can know"
    assert all(run.path.exists() for run in runs)
    for run in runs:
        run.close()
    for pid_file in pid_files:
        pid_file.release()


# Cleaners


def clean(folder: Path, how: str) -> None:
    """All files that are there are old: those go, and folders that are empty then; or simply everything."""
    for parent, folders, files in os.walk(folder, topdown=False):
        for name in files:
            Path(parent, name).unlink()
        for name in folders:
            path = Path(parent, name)
            if how == "everything" or not any(path.iterdir()):
                shutil.rmtree(path)


def replaced(server: RunningServer, model: str) -> None:
    """A worker is killed, and another one takes its place."""
    [pid] = server.pids(model)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: server.pids(model) not in (set(), {pid}))


def test_temporary_files_are_cleaned_and_nothing_is_amiss(
    serve: Serve, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack_handler(store, "chaos")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    server = serve()
    for number, how in enumerate(("old files", "everything")):
        clean(temporary, how)
        replaced(server, "chaos")
        assert server.ping().status_code == 200
        register = f"/models?url=chaos.pdar&model_name=more{number}&initial_workers=1&synchronous=true"
        assert server.manage("POST", register).ok
    stopped = subprocess.run(
        [PDSERVER, "--stop", "--pd-config", str(server.config)],
        cwd=server.folder, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (stopped.returncode, stopped.stdout) == (0, "pdserver has stopped.\n")


def test_what_a_server_has_unpacked_is_cleaned_and_unpacked_anew(serve: Serve, store: Path) -> None:
    pack_handler(store, "chaos")
    pack_handler(store, "around")
    server = serve()
    assert server.process is not None
    run = run_directory(server.process.pid)
    for number, how in enumerate(("old files", "everything"), 1):
        clean(run, how)
        replaced(server, "chaos")
        server.logged("chaos/1.0: files are gone from", number)
        assert server.predict("chaos", json={"nonce": 1}).json()["nonce"] == 1
        register = f"/models?url=chaos.pdar&model_name=more{number}&initial_workers=1&synchronous=true"
        assert server.manage("POST", register).ok
        [nursery] = {psutil.Process(pid).ppid() for pid in server.pids("chaos")}
        os.kill(nursery, signal.SIGKILL)
        server.logged("its workers serve on", number)
        replaced(server, "around")
        temporary = Path(server.predict("around", "x").json()["temporary"])
        assert temporary.parent.parent == run
        written = [path for path in (run, *run.rglob("*")) if "__pycache__" not in path.parts]
        assert {path.stat().st_mode & 0o077 for path in written} == {0}


def test_what_cannot_be_unpacked_anew_says_why_and_heals(serve: Serve, store: Path, tmp_path: Path) -> None:
    archive = pack_handler(store, "chaos")
    kept = archive.rename(tmp_path / "kept")
    archive.write_bytes(kept.read_bytes())
    server = serve()
    assert server.process is not None
    pack_handler(store, "chaos", version="2.0")
    clean(run_directory(server.process.pid), "everything")
    [pid] = server.pids("chaos")
    os.kill(pid, signal.SIGKILL)
    server.logged("files of it were removed, and can't be unpacked anew: chaos.pdar: its sha256 is")
    assert server.ping().status_code == 503
    archive.write_bytes(kept.read_bytes())
    eventually(lambda: server.pids("chaos"))
    assert server.ping().status_code == 200
    assert psutil.pid_exists(server.process.pid)
