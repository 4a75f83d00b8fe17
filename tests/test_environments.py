"""Requirements of archives: installed into environments that models share, for workers of another interpreter.

Everything that is installed here comes from folders: no index is asked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.conftest import Serve, fit_file, pack_handler
from tests.running import RunningServer, eventually

HANDLER = """
import os, sys

def handle(data, context):
    try:
        import shelf
        found = shelf.TITLE
    except ImportError:
        found = None
    return data and [{"found": found, "prefix": sys.prefix, "paddle": "paddle" in sys.modules,
                      "secret": os.environ.get("SHELF_SECRET"), "python": sys.executable}] * len(data)
"""
PROJECT = """
[build-system]
requires = []
build-backend = "build"
backend-path = ["."]
"""
BUILD = """
import zipfile

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    BODY
    name = "shelf-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{wheel_directory}/{name}", "w") as wheel:
        wheel.writestr("shelf.py", "TITLE = 'Moby-Dick'")
        wheel.writestr("shelf-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: shelf\\nVersion: 1.0\\n")
        wheel.writestr("shelf-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("shelf-1.0.dist-info/RECORD", "")
    return name
"""

TELL = "import os, time; open({!r}, 'w').write(str(os.getpid()))"
"""Writes the process's number to a file."""


def project(folder: Path, body: str = "pass") -> Path:
    """A Python package that needs nothing to be built; `body` runs while it is."""
    folder.mkdir()
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "build.py").write_text(BUILD.replace("BODY", body))
    return folder


def archive(store: Path, name: str, requirements: str, config: str = "", **files: Path) -> None:
    folder = store.parent / f"sources-{name}"
    folder.mkdir()
    (folder / "shelves.py").write_text(HANDLER)
    (folder / "requirements.txt").write_text(requirements)
    pack_handler(
        store, str(folder / "shelves.py"), name, config=config, requirements_file=folder / "requirements.txt",
        extra_files=tuple(map(str, files.values())),
    )  # fmt: skip


@pytest.fixture
def local(store: Path) -> str:
    """The requirements of a package in a folder."""
    return f"--no-index\n{project(store.parent / 'shelf')}\n"


def install_settings(store: Path, **more: str) -> dict[str, str]:
    return {"install_py_dep_per_model": "true", "venv_location": str(store.parent / "venvs"), **more}


def environments(store: Path) -> list[Path]:
    return sorted(path for path in (store.parent / "venvs").glob("*") if path.is_dir())


def gone(pid: int) -> bool:
    """Ended, whether or not somebody has asked for its status."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def said(server: RunningServer, model: str) -> dict[str, Any]:
    response = server.predict(model, "x")
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_models_have_what_they_require(serve: Serve, store: Path, local: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two with the same archive's content share an environment; one without requirements keeps the server's."""
    monkeypatch.setenv("SHELF_SECRET", "xyzzy")
    archive(store, "asking", local)
    pack_handler(store, "mirror")
    server = serve(**install_settings(store, worker_env_vars="SHELF_.*", blacklist_env_vars="SHELF_.*"))
    [environment] = environments(store)
    answer = said(server, "asking")
    assert answer["found"] == "Moby-Dick"
    assert Path(answer["prefix"]) == environment
    assert Path(answer["python"]) == environment / "bin" / "python"
    assert answer["secret"] is None
    assert not answer["paddle"]
    assert server.predict("mirror", "x").status_code == 200
    server.logged(f"asking/1.0: installing requirements.txt to {environment}")
    server.logged("asking/1.0 | Successfully installed shelf-1.0")

    # The same archive under another name: nothing is installed again.
    params = {"url": "asking.pdar", "model_name": "other", "initial_workers": "2", "synchronous": "true"}
    assert server.manage("POST", "/models", params=params).status_code == 200
    assert said(server, "other")["prefix"] == answer["prefix"]
    assert server.log().count("installing requirements.txt") == 1
    assert len(server.pids("other")) == 2

    # Such workers are supervised like the others.
    [pid] = server.pids("asking")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: server.pids("asking") not in (set(), {pid}))
    assert said(server, "asking")["found"] == "Moby-Dick"


def test_an_environment_outlives_the_server(serve: Serve, store: Path, local: str) -> None:
    archive(store, "asking", local)
    for expected in (1, 0):
        server = serve(**install_settings(store))
        assert said(server, "asking")["found"] == "Moby-Dick"
        server.logged("Successfully installed", times=expected)
        server.stop()
        assert server.log().count("Successfully installed") == expected


def test_a_worker_of_another_interpreter_runs_paddle(serve: Serve, store: Path, fit_model: Path) -> None:
    """What the server has is there already, and different archives that require the same share an environment."""
    (store.parent / "requirements.txt").write_text("numpy\nmsgspec\n")
    pack_handler(store, "mirror", requirements_file=store.parent / "requirements.txt")
    pack_handler(
        store, "base_handler", "fit", serialized_file=fit_file(fit_model),
        params_file=fit_model / "fit.pdiparams", requirements_file=store.parent / "requirements.txt",
    )  # fmt: skip
    server = serve(**install_settings(store))
    [environment] = environments(store)
    [pid] = server.pids("fit")
    assert psutil.Process(pid).cmdline()[0] == str(environment / "bin" / "python")
    assert server.predict("fit", json=[0.5] * 13).status_code == 200
    large = os.urandom(3_000_000)
    assert server.predict("mirror", large).content == large[::-1]
    [pid] = server.pids("mirror")
    assert psutil.Process(pid).cmdline()[0] == str(environment / "bin" / "python")


def test_use_venv_in_the_models_own_settings(
    serve: Serve, store: Path, local: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHELF_SECRET", "xyzzy")
    archive(store, "asking", local, config="useVenv: true\n")
    archive(store, "ignored", local)
    server = serve(venv_location=str(store.parent / "venvs"), worker_env_vars="SHELF_.*")
    assert said(server, "asking")["found"] == "Moby-Dick"
    assert said(server, "ignored")["found"] is None
    assert said(server, "asking")["secret"] == said(server, "ignored")["secret"] == "xyzzy"
    assert (server.describe("asking")["useVenv"], server.describe("ignored")["useVenv"]) == (True, False)
    server.logged("ignored/1.0: the archive's requirements.txt is not installed: set install_py_dep")
    assert len(environments(store)) == 1


def test_wheels_in_the_archive(serve: Serve, store: Path) -> None:
    wheels = store.parent / "wheels"
    wheels.mkdir()
    built = [sys.executable, "-m", "pip", "wheel", "-q", "--no-index", "-w", str(wheels)]
    subprocess.run([*built, str(project(store.parent / "shelf"))], check=True)
    [wheel] = wheels.iterdir()
    archive(store, "offline", "--no-index\n./shelf-1.0-py3-none-any.whl\n", wheel=wheel)
    server = serve(**install_settings(store))
    assert said(server, "offline")["found"] == "Moby-Dick"


@pytest.mark.catalogue("L9", "L10")
def test_what_cannot_be_installed_says_what_pip_said(serve: Serve, store: Path, local: str) -> None:
    server = serve(**install_settings(store))
    archive(store, "broken", "--no-index\nno-such-package-anywhere==1.0\n")
    refused = server.manage("POST", "/models", params={"url": "broken.pdar"})
    assert refused.status_code == 400
    message = refused.json()["message"]
    assert message.startswith("Custom pip package installation failed for model broken: -m pip ended with status 1")
    assert message.endswith(": ERROR: No matching distribution found for no-such-package-anywhere==1.0")
    server.logged("Could not find a version that satisfies")
    assert server.manage("GET", "/models/broken").status_code == 404

    # What failed is not taken for done.
    again = server.manage("POST", "/models", params={"url": "broken.pdar"})
    assert again.json()["message"] == message
    archive(store, "asking", local)
    params = {"url": "asking.pdar", "initial_workers": "1", "synchronous": "true"}
    assert server.manage("POST", "/models", params=params).status_code == 200


@pytest.mark.catalogue("L11")
def test_pip_has_its_time(serve: Serve, store: Path) -> None:
    """What it started ends with it, and the server answers meanwhile."""
    pid_file = store.parent / "pid"
    folder = project(store.parent / "slow", f"{TELL.format(str(pid_file))}; time.sleep(600)")
    archive(store, "slow", f"--no-index\n{folder}\n")
    server = serve("", **install_settings(store, install_py_dep_timeout="15"))
    with ThreadPoolExecutor(1) as beside:
        asked = beside.submit(server.manage, "POST", "/models", params={"url": "slow.pdar"})
        pid = int(eventually(lambda: pid_file.exists() and pid_file.read_text(), 15))
        assert server.ping().status_code == 200
        assert not asked.done()
        refused = asked.result()
    assert refused.status_code == 400
    assert "not done within 15 s (install_py_dep_timeout)" in refused.json()["message"]
    eventually(lambda: gone(pid))


def test_a_server_that_stops_takes_pip_along(serve: Serve, store: Path) -> None:
    pid_file = store.parent / "pid"
    folder = project(store.parent / "slow", f"{TELL.format(str(pid_file))}; time.sleep(600)")
    archive(store, "slow", f"--no-index\n{folder}\n")
    server = serve("", **install_settings(store, stop_timeout="1"))
    with ThreadPoolExecutor(1) as beside:
        asked = beside.submit(requests.post, f"{server.management}/models", params={"url": "slow.pdar"}, timeout=60)
        pid = int(eventually(lambda: pid_file.exists() and pid_file.read_text(), 60))
        server.stop()
        eventually(lambda: gone(pid))
        with contextlib.suppress(requests.RequestException):
            assert asked.result().status_code >= 400
    [lock] = (store.parent / "venvs").glob("*.lock")
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_no_place_for_environments(serve: Serve, store: Path, local: str) -> None:
    archive(store, "asking", local)
    (store.parent / "venvs").write_text("")
    server = serve(models="", **install_settings(store))
    refused = server.manage("POST", "/models", params={"url": "asking.pdar"})
    assert refused.status_code == 503
    assert refused.json()["message"].startswith(f"venv_location={store.parent / 'venvs'}: ")
