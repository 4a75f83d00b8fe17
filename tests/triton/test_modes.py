"""What is loaded at the start, and what polling makes of changes."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pdserver.errors import LoadFailed
from pdserver.triton.folders import Folders
from pdserver.triton.model_folder import ModelFolder
from pdserver.triton.modes import Poll
from tests.conftest import Serve
from tests.running import PDSERVER, RunningServer, clean_environment, eventually
from tests.triton.folders import add_ensemble, add_version, configure, output_of
from tests.without_paddle import without_paddle as without_paddle

INDEX = "/v2/repository/index"


def index(server: RunningServer) -> dict[tuple[str, str], str]:
    """(name, version) → state; "" for what was never loaded."""
    entries: list[dict[str, Any]] = server.session.post(server.inference + INDEX, timeout=60).json()
    return {(entry["name"], entry.get("version", "")): entry.get("state", "") for entry in entries}


def load(server: RunningServer, name: str) -> tuple[int, str]:
    answer = server.session.post(f"{server.inference}/v2/repository/models/{name}/load", timeout=60)
    return answer.status_code, answer.text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    return folder


def test_everything_is_loaded_and_nothing_else_can_be(
    folder: Path, fit_model: Path, tmp_path: Path, serve: Serve
) -> None:
    add_version(folder, fit_model, "one")
    add_version(tmp_path / "more", fit_model, "two")
    configure(folder, "backend: 'tensorflow'", "foreign")
    (folder / "foreign" / "1").mkdir()
    server = serve("", model_repository=f"{folder}, {tmp_path / 'more'}", exit_on_error="false")
    assert index(server) == {("foreign", "1"): "UNAVAILABLE", ("one", "1"): "READY", ("two", "1"): "READY"}
    assert "foreign" in server.ping().text
    status, text = load(server, "one")
    assert status == 503
    assert "explicit model load / unload is not allowed if polling is enabled" in text
    assert server.predict("one", json={"x": [0.0] * 13}).ok
    assert server.manage("PUT", "/models/one?min_worker=2&synchronous=true").ok
    server.stop()
    for snapshot in server.snapshots.iterdir():
        assert "one" not in snapshot.read_text(), "its folder says what is served, not a snapshot"


def refused_start(folder: Path, tmp_path: Path) -> str:
    """What it says, with a model of another backend in the folder."""
    configure(folder, "backend: 'tensorflow'", "foreign")
    (folder / "foreign" / "1").mkdir()
    ended = subprocess.run(
        [PDSERVER, "--start", "--foreground", "--model-repository", str(folder),
         *("--inference-address", "http://127.0.0.1:0", "--management-address", "http://127.0.0.1:0"),
         *("--metrics-address", "http://127.0.0.1:0", "--enable-grpc", "false", "--log-location", str(tmp_path))],
        cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    return ended.stderr


def test_a_model_that_cannot_be_loaded_ends_the_start(folder: Path, fit_model: Path, tmp_path: Path) -> None:
    add_version(folder, fit_model, "one")
    said = refused_start(folder, tmp_path)
    assert "failed to load 'foreign', version 1 is at UNAVAILABLE state: foreign/config.pbtxt: backend: " in said
    assert "exit_on_error=false" in said


@pytest.mark.usefixtures("without_paddle")
def test_a_refused_start_does_not_speak_of_workers(folder: Path, tmp_path: Path) -> None:
    """Nobody has wanted one yet: the process that would have made them ends with the server."""
    assert "worker" not in refused_start(folder, tmp_path)


class Flaky:
    """In place of ModelControl: the first time, nothing can be loaded."""

    def __init__(self) -> None:
        self.tried: list[str] = []

    async def admit(self, folder: ModelFolder) -> None:
        self.tried.append(folder.name)
        if len(self.tried) == 1:
            raise LoadFailed("not now")


def test_what_cannot_be_loaded_is_tried_again(folder: Path, fit_model: Path) -> None:
    add_version(folder, fit_model, "one")
    control = Flaky()
    poll = Poll(control, Folders([folder]), 0.0)  # type: ignore[arg-type]

    async def three_looks() -> dict[str, str]:
        problems = await poll.begin()
        assert await poll.once()
        assert await poll.once()
        return problems

    assert asyncio.run(three_looks()) == {"one": "not now"}
    assert control.tried == ["one", "one"]


PAIR = """
    platform: "ensemble"
    max_batch_size: 2
    input { name: "x" data_type: TYPE_FP32 dims: 13 }
    output { name: "y" data_type: TYPE_FP32 dims: 1 }
    ensemble_scheduling {
      step { model_name: "paired" input_map { key: "x" value: "x" } output_map { key: "OUTPUT" value: "y" } }
    }
"""


@pytest.fixture(scope="module")
def polled(tmp_path_factory: pytest.TempPathFactory, fit_model: Path) -> Iterator[tuple[RunningServer, Path]]:
    """A server that looks at two repositories, and the first of them; `second` is beside it."""
    both = tmp_path_factory.mktemp("repositories")
    folder, second = both / "first", both / "second"
    for repository in (folder, second):
        repository.mkdir()
    add_version(folder, fit_model, "first")
    add_version(folder, fit_model, "paired")
    add_ensemble(folder, PAIR.replace("OUTPUT", output_of(fit_model)), "a_pair")
    settings = {"model_repository": f"{folder},{second}", "model_control_mode": "poll", "repository_poll_secs": "0.1"}
    with RunningServer(tmp_path_factory.mktemp("server"), tmp_path_factory.mktemp("store"), "", settings) as server:
        yield server, folder


def test_new_models_come_and_others_go(polled: tuple[RunningServer, Path], fit_model: Path) -> None:
    server, folder = polled
    assert index(server)["first", "1"] == "READY"
    add_version(folder, fit_model, "second")
    eventually(lambda: index(server).get(("second", "1")) == "READY")
    shutil.rmtree(folder / "second")
    eventually(lambda: index(server).get(("second", "1")) == "UNAVAILABLE")
    assert not server.predict("second", json={"x": [0.0] * 13}).ok
    assert server.predict("first", json={"x": [0.0] * 13}).ok


def test_ensembles_come_and_go_with_their_models(polled: tuple[RunningServer, Path], fit_model: Path) -> None:
    """Also at the start, where this one is before its model in the order of names."""
    server, folder = polled
    assert index(server)["a_pair", "1"] == "READY"
    shutil.rmtree(folder / "paired")
    eventually(lambda: "'a_pair' depends on 'paired' which has no loaded version" in reason(server, "a_pair"))
    assert index(server)["a_pair", "1"] == "UNAVAILABLE"
    add_version(folder, fit_model, "paired")
    eventually(lambda: index(server).get(("a_pair", "1")) == "READY")
    answer = server.session.post(
        f"{server.inference}/v2/models/a_pair/infer",
        json={"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 13], "data": [0.0] * 13}]},
        timeout=60,
    )
    assert answer.json()["outputs"][0]["shape"] == [1, 1]


def test_a_new_version_takes_over(polled: tuple[RunningServer, Path], fit_model: Path) -> None:
    server, folder = polled
    add_version(folder, fit_model, "growing")
    eventually(lambda: index(server).get(("growing", "1")) == "READY")
    add_version(folder, fit_model, "growing", "2")
    eventually(lambda: index(server).get(("growing", "2")) == "READY")
    eventually(lambda: index(server).get(("growing", "1")) == "UNAVAILABLE")
    assert server.describe("growing")["modelVersion"] == "2"


def test_what_is_broken_keeps_nobody_from_being_seen(polled: tuple[RunningServer, Path], fit_model: Path) -> None:
    server, folder = polled
    version = add_version(folder, fit_model, "mended")
    model = (version / "model.json").read_bytes()
    (version / "model.json").write_bytes(model[:100])
    eventually(lambda: index(server).get(("mended", "1")) == "UNAVAILABLE")
    add_version(folder, fit_model, "beside")
    eventually(lambda: index(server).get(("beside", "1")) == "READY")
    (version / "model.json").write_bytes(model)
    eventually(lambda: index(server).get(("mended", "1")) == "READY")
    pids = server.pids("mended")
    (version / "model.json").write_bytes(model[:100])
    server.logged("failed to load 'mended'", times=2)
    assert server.pids("mended") == pids
    assert server.predict("mended", json={"x": [0.0] * 13}).ok


DUPLICATE = "model appears in two or more repositories"


def reason(server: RunningServer, name: str) -> str:
    entries: list[dict[str, Any]] = server.session.post(server.inference + INDEX, timeout=60).json()
    [entry] = [entry for entry in entries if entry["name"] == name]
    return str(entry.get("reason", ""))


def test_explicitly_what_is_named_is_loaded_unless_it_is_in_two_repositories(
    folder: Path, fit_model: Path, tmp_path: Path, serve: Serve
) -> None:
    for name in ("one", "two", "three"):
        add_version(folder, fit_model, name)
    second = tmp_path / "second"
    for repository in (folder, second):
        add_version(repository, fit_model, "twice")
    server = serve(
        "",
        model_repository=f"{folder},{second}",
        model_control_mode="explicit",
        load_model="one,three",
        exit_on_error="false",
    )
    others = {("one", "1"): "READY", ("two", ""): "", ("three", "1"): "READY"}
    assert index(server) == {**others, ("twice", ""): "UNAVAILABLE"}
    assert reason(server, "twice") == DUPLICATE
    status, text = load(server, "twice")
    assert (status, f"failed to load 'twice', failed to poll from model repository: {DUPLICATE}" in text) == (500, True)
    add_version(second, fit_model, "one")
    assert load(server, "one")[0] == 500
    assert index(server)["one", "1"] == "READY", "what is served when a call fails stays so"
    shutil.rmtree(second / "twice")
    assert load(server, "twice")[0] == 200
    assert index(server)["twice", "1"] == "READY"


def test_a_model_that_comes_to_be_in_two_repositories_is_unloaded_by_polling(
    polled: tuple[RunningServer, Path], fit_model: Path
) -> None:
    server, folder = polled

    def seen() -> dict[str, str]:
        """Version → state."""
        return {version: state for (name, version), state in index(server).items() if name == "moved"}

    add_version(folder, fit_model, "moved")
    eventually(lambda: seen() == {"1": "READY"})
    add_version(folder.with_name("second"), fit_model, "moved")
    eventually(lambda: seen() == {"": "UNAVAILABLE"})
    assert reason(server, "moved") == DUPLICATE
    shutil.rmtree(folder / "moved")
    eventually(lambda: seen() == {"1": "READY"})


def test_a_repository_that_is_away_unloads_nothing(polled: tuple[RunningServer, Path]) -> None:
    server, folder = polled
    folder.rename(folder.with_name("away"))
    try:
        server.logged("cannot be read: No such file or directory; what is loaded stays so")
        assert server.predict("first", json={"x": [0.0] * 13}).ok
    finally:
        folder.with_name("away").rename(folder)
