"""Who on the machine can read what the server writes: its user; its logs also its group. Whatever umask it has."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest
import requests

from tests.conftest import pack_handler
from tests.running import PDSERVER, RunningServer, clean_environment, eventually


def modes(folder: Path) -> dict[str, int]:
    """Of a folder, and of all that is in it."""
    return {str(path): stat.S_IMODE(path.lstat().st_mode) for path in (folder, *folder.rglob("*"))}


@pytest.mark.parametrize("umask", [0, 0o022])
def test_logs_are_for_the_group_at_most_and_all_else_for_nobody_but_the_user(
    store: Path, tmp_path: Path, umask: int
) -> None:
    (tmp_path / "requirements.txt").write_text("numpy\n")
    pack_handler(store, "faults", requirements_file=tmp_path / "requirements.txt")
    folders = {"log_location": "var/log/pdserver", "metrics_location": "var/metrics", "venv_location": "var/venvs"}
    more = {"token_file": "var/secrets/tokens.json", "metrics_mode": "log", "install_py_dep_per_model": "true"}
    server = RunningServer(tmp_path / "server", store, "all", {**folders, **more})

    def pdserver(argument: str) -> None:
        command = [PDSERVER, argument, "--pd-config", str(server.config)]
        environment = {**clean_environment(), "XDG_STATE_HOME": str(tmp_path / "own" / "state")}
        subprocess.run(command, cwd=server.folder, env=environment, umask=umask, timeout=120, check=True)

    pdserver("--start")
    try:
        requests.get(f"{server.inference}/ping", timeout=60)
        logs = server.folder / "var" / "log"
        expected = {"access_log.log", "pdserver.log", "pdserver.out"}
        eventually(lambda: expected <= {path.name for path in (logs / "pdserver").iterdir()})
        private = {**modes(tmp_path / "own"), **modes(server.folder / "var" / "secrets")}
        venvs = server.folder / "var" / "venvs"
        private |= {str(path): stat.S_IMODE(path.stat().st_mode) for path in (venvs, *venvs.iterdir())}
    finally:
        pdserver("--stop")
    public = {path for path, mode in private.items() if mode & 0o077 and "__pycache__" not in path}
    assert public == set()
    written = {**modes(logs), **modes(server.folder / "var" / "metrics")}
    assert any(path.endswith(".cfg") for path in written), "the snapshots are among them"
    wanted = {path: (0o750 if Path(path).is_dir() else 0o640) & ~umask for path in written}
    assert written == wanted
