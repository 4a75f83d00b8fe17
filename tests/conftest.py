"""Servers, archives and models that the tests share."""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from pdarchiver.pack import PackOptions, pack
from tests import reaper, unsafe_models
from tests.command import Command
from tests.running import RunningServer

# Jobs that a shell runs in the background ignore it, and so would the programs under test.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # likewise below nohup

# The same examples in every run, and no clock: a failure here is a fault of the change at hand.
hypothesis.settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True, scope="session")
def nothing_outlives_the_tests() -> Iterator[None]:
    """Servers end with this process, whatever ends it."""
    mark = f"{os.getpid()}-{time.time_ns()}"
    ours, its = socket.socketpair()
    command = [sys.executable, "-S", reaper.__file__, str(its.fileno()), mark]
    with ours, subprocess.Popen(command, pass_fds=[its.fileno()], start_new_session=True):
        its.close()
        os.environ[reaper.MARK] = mark
        yield
        ours.send(b".")


ZOO = Path(__file__).parent / "zoo"
FIT = """
import sys, numpy as np, paddle
paddle.seed(7)
layer = paddle.nn.Linear(13, 1)
layer.eval()
spec = [paddle.static.InputSpec([None, 13], "float32", "x")]
paddle.jit.save(paddle.jit.to_static(layer, input_spec=spec), sys.argv[1] + "/fit")
np.savez(sys.argv[1] + "/weights.npz", w=layer.weight.numpy(), b=layer.bias.numpy())
"""


ODD = Path(__file__).parent / "odd_models.py"

LONG_FILES = {
    *("test_wheel.py", "test_docs_commands.py", "test_environments.py"),
    *("test_demo.py", "test_snapshots.py", "test_cli.py"),
}
"""Begun first, since a file is one process's: the others would have ended when one is left with such a file."""


@pytest.fixture(scope="session", autouse=True)
def _coverage_of_what_is_started() -> None:
    """While coverage is measured, our programs measure theirs too (`measured/sitecustomize.py`), and no others do."""
    if config := os.environ.pop("COVERAGE_PROCESS_CONFIG", None):
        os.environ["PYTHON_COVERAGE"] = config
        folders = [str(Path(__file__).parent / "measured"), os.environ.get("PYTHONPATH")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, folders))


@pytest.fixture(scope="session", autouse=True)
def _temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What programs that tests have killed leave behind goes with the tests.

    The path is short: those of Ray's sockets, which are below it, may have 107 bytes.
    """
    tmp_path_factory.getbasetemp()  # stays where it was
    with (
        tempfile.TemporaryDirectory(prefix="pd-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(scope="session", autouse=True)
def _state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Servers of the tests keep their own apart from those of the user who runs them."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: a third of their time, tests wait for what they have started."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG_FILES)
    if not os.environ.get("PDSERVER_SOAK"):
        for item in items:
            if item.get_closest_marker("soak"):
                item.add_marker(pytest.mark.skip(reason="make soak"))


def pytest_collection_finish() -> None:
    """Thousands of tests and what they import stay until the end: the garbage collector need not walk them again."""
    gc.freeze()


def pack_handler(
    store: Path, handler: str, name: str | None = None, version: str = "1.0", config: str = "", **options: object
) -> Path:
    """An archive of the store with a handler of the zoo (or a built-in one)."""
    path = ZOO / f"{handler}.py"
    config_file = None
    if config:
        config_file = store.parent / f"{name or handler}-{version}.yaml"
        config_file.write_text(config)
    return pack(
        PackOptions(
            model_name=name or handler,
            version=version,
            handler=str(path) if path.exists() else handler,
            config_file=config_file,
            export_path=store,
            force=True,
            **options,  # type: ignore[arg-type]
        )
    )


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """Folders that take long to fill: the first process of tests that needs one fills it, all of them read it."""
    base = tmp_path_factory.getbasetemp()
    return MadeOnce(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)


class MadeOnce:
    def __init__(self, base: Path) -> None:
        self._base = base

    def __call__(self, name: str, fill: Callable[[Path], object]) -> Path:
        """The folder of that name; `fill` puts into it what it is to hold."""
        folder = self._base / f"once-{name}"
        filled = folder.with_suffix(".filled")
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not filled.exists():
                shutil.rmtree(folder, ignore_errors=True)  # begun by a process that failed
                folder.mkdir()
                fill(folder)
                filled.touch()
        return folder


def run_script(*arguments: object, **environment: str) -> None:
    """In a Python of its own. Fails with what it has said."""
    command = [sys.executable, "-W", "ignore", *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, "GLOG_minloglevel": "2", **environment}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]


@pytest.fixture(scope="session")
def fit_model(made_once: MadeOnce) -> Path:
    """A folder with a real Paddle model, 13 floats → 1, and its weights.npz (w, b)."""
    return made_once("fit", lambda folder: run_script("-c", FIT, folder))


def fit_file(fit_model: Path) -> Path:
    """The model's file, as this Paddle writes it; its `fit.pdiparams` lies beside it."""
    [file] = [*fit_model.glob("fit.json"), *fit_model.glob("fit.pdmodel")]
    return file


@pytest.fixture(scope="session")
def serving_models(made_once: MadeOnce) -> Path:
    """The folders that web_services/models.py writes."""
    return made_once("serving-models", lambda folder: run_script("-m", "tests.web_services.models", folder))


@pytest.fixture(scope="session")
def odd_models(made_once: MadeOnce) -> Path:
    """A folder with the models of odd_models.py."""
    return made_once("odd", lambda folder: run_script(ODD, folder))


@pytest.fixture(scope="session")
def unsafe(made_once: MadeOnce) -> Path:
    """A folder with models that do more than compute; and plain.json and loop.json, which don't."""
    return made_once("unsafe", unsafe_models.made)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


Serve = Callable[..., RunningServer]


@pytest.fixture
def serve(tmp_path: Path, store: Path) -> Iterator[Serve]:
    """Start servers that end with the test: `serve(models="all", batch…)`; keyword arguments are configuration keys."""
    with ExitStack() as stack:

        def start(models: str = "all", **settings: str) -> RunningServer:
            folder = tmp_path / f"server{len(list(tmp_path.glob('server*')))}"
            return stack.enter_context(RunningServer(folder, store, models, settings))

        yield start


@pytest.fixture
def command(tmp_path: Path, store: Path) -> Iterator[Command]:
    folder = tmp_path / "here"
    folder.mkdir()
    command = Command(folder, store)
    yield command
    command("--stop")


class Lent:
    """A server that tests use one after the other: called, it packs a handler and serves it until the test's end.

    For tests that need no settings of the server's own, and leave it running: a start costs more than most tests.
    """

    def __init__(self, server: RunningServer, store: Path) -> None:
        self.server = server
        self.store = store

    def __call__(self, handler: str, name: str | None = None, config: str = "", **options: Any) -> RunningServer:
        archive = pack_handler(self.store, handler, name, config=config, **options)
        answer = self.server.manage("POST", f"/models?url={archive.name}")
        assert answer.status_code == 200, answer.text
        return self.server

    def clear(self) -> None:
        """Nothing is served, and the store is empty."""
        for model in self.server.manage("GET", "/models?limit=1000").json()["models"]:
            answer = self.server.manage("DELETE", f"/models/{model['modelName']}")
            assert answer.status_code == 200, answer.text
        for archive in self.store.iterdir():
            archive.unlink()


@pytest.fixture(scope="session")
def servant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lent]:
    folder = tmp_path_factory.mktemp("lent")
    store = folder / "store"
    store.mkdir()
    with RunningServer(folder / "server", store, "") as server:
        yield Lent(server, store)


@pytest.fixture
def lent(servant: Lent) -> Iterator[Lent]:
    yield servant
    servant.clear()
