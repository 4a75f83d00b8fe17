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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.conftest import Lent, Serve, fit_file, pack_handler
from tests.running import RunningServer, eventually
from tests.without_paddle import without_paddle as without_paddle

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


@pytest.fixture(autouse=True, scope="module")
def _pip_looks_at_its_own() -> Iterator[None]:
    """pip does not check whether all that is installed here agrees, which takes it longer than the rest of its work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_WARN_CONFLICTS", "0")  # the value of warn_about_conflicts, which this names
        yield


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The requirements of a package in a folder."""
    return f"--no-index\n{project(tmp_path_factory.mktemp('local') / 'shelf')}\n"


@pytest.fixture(scope="module")
def choosy(_pip_looks_at_its_own: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lent]:
    """A server that installs for models that say useVenv, and passes SHELF_SECRET to workers."""
    folder = tmp_path_factory.mktemp("choosy")
    store = folder / "store"
    store.mkdir()
    settings = {"venv_location": str(folder / "venvs"), "worker_env_vars": "SHELF_.*"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHELF_SECRET", "xyzzy")
        with RunningServer(folder / "server", store, "", settings) as server:
            yield Lent(server, store)


@pytest.fixture
def server(choosy: Lent) -> Iterator[RunningServer]:
    yield choosy.server
    choosy.clear()


@pytest.fixture
def its_store(choosy: Lent) -> Path:
    """The server's store."""
    return choosy.store


def register(server: RunningServer, name: str, **more: str) -> requests.Response:
    params = {"url": f"{name}.pdar", "initial_workers": "1", "synchronous": "true", **more}
    return server.manage("POST", "/models", params=params)


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


@pytest.mark.usefixtures("without_paddle")
def test_models_have_what_they_require(serve: Serve, store: Path, local: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two with the same archive's content share an environment, which outlives the server; one without requirements
    keeps the server's."""
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
    assert register(server, "asking", model_name="other", initial_workers="2").status_code == 200
    assert said(server, "other")["prefix"] == answer["prefix"]
    assert server.log().count("installing requirements.txt") == 1
    assert len(server.pids("other")) == 2

    # Such workers are supervised like the others.
    [pid] = server.pids("asking")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: server.pids("asking") not in (set(), {pid}))
    assert said(server, "asking")["found"] == "Moby-Dick"

    # The next server finds the environment.
    server.stop()
    server = serve(**install_settings(store))
    assert said(server, "asking")["prefix"] == answer["prefix"]
    server.stop()
    assert "installing requirements.txt" not in server.log()


def test_a_worker_of_another_interpreter_runs_paddle(server: RunningServer, its_store: Path, fit_model: Path) -> None:
    """What the server has is there already, and different archives that require the same share an environment."""
    required: dict[str, Any] = {"requirements_file": its_store.parent / "requirements.txt", "config": "useVenv: true\n"}
    (its_store.parent / "requirements.txt").write_text("numpy\nmsgspec\n")
    before = environments(its_store)
    pack_handler(its_store, "mirror", **required)
    pack_handler(
        its_store, "base_handler", "fit", serialized_file=fit_file(fit_model),
        params_file=fit_model / "fit.pdiparams", **required,
    )  # fmt: skip
    for name in ("mirror", "fit"):
        assert register(server, name).status_code == 200
    [environment] = set(environments(its_store)) - set(before)
    [pid] = server.pids("fit")
    assert psutil.Process(pid).cmdline()[0] == str(environment / "bin" / "python")
    assert server.predict("fit", json=[0.5] * 13).status_code == 200
    large = os.urandom(3_000_000)
    assert server.predict("mirror", large).content == large[::-1]
    [pid] = server.pids("mirror")
    assert psutil.Process(pid).cmdline()[0] == str(environment / "bin" / "python")


def test_use_venv_in_the_models_own_settings(server: RunningServer, its_store: Path, local: str) -> None:
    before = environments(its_store)
    archive(its_store, "asking", local, config="useVenv: true\n")
    archive(its_store, "ignored", local)
    for name in ("asking", "ignored"):
        assert register(server, name).status_code == 200
    assert said(server, "asking")["found"] == "Moby-Dick"
    assert said(server, "ignored")["found"] is None
    assert said(server, "asking")["secret"] == said(server, "ignored")["secret"] == "xyzzy"
    assert (server.describe("asking")["useVenv"], server.describe("ignored")["useVenv"]) == (True, False)
    server.logged("ignored/1.0: the archive's requirements.txt is not installed: set install_py_dep")
    assert len(environments(its_store)) == len(before) + 1


def test_wheels_in_the_archive(server: RunningServer, its_store: Path, tmp_path: Path) -> None:
    package = project(tmp_path / "shelf")
    build = f"import build; print(build.build_wheel({str(tmp_path)!r}))"
    wheel = subprocess.run([sys.executable, "-c", build], cwd=package, check=True, capture_output=True, text=True)
    requirements = f"--no-index\n./{wheel.stdout}"
    archive(its_store, "offline", requirements, "useVenv: true\n", wheel=tmp_path / wheel.stdout.strip())
    assert register(server, "offline").status_code == 200
    assert said(server, "offline")["found"] == "Moby-Dick"


@pytest.mark.catalogue("L9", "L10")
def test_what_cannot_be_installed_says_what_pip_said(server: RunningServer, its_store: Path, local: str) -> None:
    archive(its_store, "broken", "--no-index\nno-such-package-anywhere==1.0\n", "useVenv: true\n")
    refused = register(server, "broken")
    assert refused.status_code == 400
    message = refused.json()["message"]
    assert message.startswith("Custom pip package installation failed for model broken: -m pip ended with status 1")
    assert message.endswith(": ERROR: No matching distribution found for no-such-package-anywhere==1.0")
    server.logged("Could not find a version that satisfies")
    assert server.manage("GET", "/models/broken").status_code == 404

    # What failed is not taken for done.
    assert register(server, "broken").json()["message"] == message
    archive(its_store, "whole", local, "useVenv: true\n")
    assert register(server, "whole").status_code == 200


def test_no_place_for_environments(server: RunningServer, its_store: Path, local: str) -> None:
    archive(its_store, "nowhere", local, "useVenv: true\n")
    place, aside = its_store.parent / "venvs", its_store.parent / "aside"
    if place.exists():
        place.rename(aside)
    place.write_text("")
    try:
        refused = register(server, "nowhere")
    finally:
        place.unlink()
        if aside.exists():
            aside.rename(place)
    assert refused.status_code == 503
    assert refused.json()["message"].startswith(f"venv_location={place}: ")


@pytest.mark.catalogue("L11")
@pytest.mark.usefixtures("without_paddle")
def test_pip_has_its_time_and_ends_with_the_server(serve: Serve, store: Path) -> None:
    """What it started ends with it, and the server answers meanwhile."""
    pid_file = store.parent / "pid"
    folder = project(store.parent / "slow", f"{TELL.format(str(pid_file))}; time.sleep(600)")
    archive(store, "slow", f"--no-index\n{folder}\n")
    server = serve("", **install_settings(store, install_py_dep_timeout="15", stop_timeout="1"))

    def ask() -> requests.Response:
        return requests.post(f"{server.management}/models", params={"url": "slow.pdar"}, timeout=60)

    def builder() -> int:
        pid = int(eventually(lambda: pid_file.exists() and pid_file.read_text()))
        pid_file.unlink()
        return pid

    with ThreadPoolExecutor(1) as beside:
        asked = beside.submit(ask)
        pid = builder()
        assert server.ping().status_code == 200
        assert not asked.done()
        refused = asked.result()
        assert refused.status_code == 400
        assert "not done within 15 s (install_py_dep_timeout)" in refused.json()["message"]
        eventually(lambda: gone(pid))

        asked = beside.submit(ask)
        pid = builder()
        server.stop()
        eventually(lambda: gone(pid))
        with contextlib.suppress(requests.RequestException):
            assert asked.result().status_code >= 400
    [lock] = (store.parent / "venvs").glob("*.lock")
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
