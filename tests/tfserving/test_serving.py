"""Models by TensorFlow Serving's configuration, in a real server: versions, labels, polling, what is broken."""

from __future__ import annotations

import itertools
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from pdarchiver.archive import unpack
from pdarchiver.pack import PackOptions, pack
from pdarchiver.reading import Limits
from tests.conftest import MadeOnce
from tests.running import MANAGEMENT_DISTANCE, eventually
from tests.tfserving.site import Site, made_versions

BOTH = "model_version_policy { specific { versions: 1 versions: 2 } }"


def labels(**versions: int) -> str:
    return " ".join(f"version_labels {{ key: '{label}' value: {version} }}" for label, version in versions.items())


@pytest.fixture(scope="module")
def made(made_once: MadeOnce) -> Path:
    return made_versions(made_once)


@pytest.fixture(scope="module")
def running(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server that serves `fit`, versions 1 and 2; `forms`, whose versions are in all forms; and `late`, which is not
    there yet."""
    site = Site(tmp_path_factory.mktemp("tfserving"), made)
    for version in (1, 2):
        site.put(version)
    put_all_forms(site, site.folder / "forms")
    site.write(*at_first(site))
    with site:
        yield site.start(
            f"--model_config_file={site.config}",
            "--model_config_file_poll_wait_seconds=1",
            "--file_system_poll_wait_seconds=1",
            "--load_retry_interval_micros=300000",
            "--max_num_load_retries", "2",
            "--tensorflow_intra_op_parallelism=4",
        )  # fmt: skip


def at_first(site: Site) -> list[str]:
    return [
        site.model("fit", BOTH + labels(production=1, test=2)),
        site.model("forms", "model_version_policy { all {} }"),
        site.model("late"),
    ]


@pytest.fixture
def site(running: Site) -> Site:
    """`fit` is served by the versions 1 and 2 at the begin of each test."""
    if running.states()[1] != "AVAILABLE" or running.states()[2] != "AVAILABLE":
        running.write(running.model("fit", BOTH), *at_first(running)[1:])
        running.answers(1, "fit/versions/1")
        running.answers(2, "fit/versions/2")
    running.write(*at_first(running))
    running.answers(1, "fit/labels/production")
    running.answers(2)
    return running


def put_all_forms(site: Site, base: Path) -> None:
    """A plain model, an archive, the same unpacked, and one whose folder's number begins with zeros."""
    site.put(1, "forms")
    model = next(path for path in (site.made / "2").iterdir() if path.suffix in (".json", ".pdmodel"))
    (base / "2").mkdir()
    archive = pack(
        PackOptions(model_name="other", version="7", serialized_file=model, export_path=base / "2", force=True)
    )
    with archive.open("rb") as file:
        unpack(file, base / "3", Limits())
    site.put(4, "forms", name="00000123")
    (base / "notes").mkdir()


class Flow:
    """Requests without a pause, from the begin of a `with` to its end."""

    def __init__(self, *asks: Callable[[], Any]) -> None:
        self._ends = threading.Event()
        self.answers: list[list[Any]] = [[] for _ in asks]
        self._threads = [threading.Thread(target=self._run, args=each) for each in zip(asks, self.answers, strict=True)]

    def _run(self, ask: Callable[[], Any], answers: list[Any]) -> None:
        while not self._ends.is_set():
            answers.append(ask())

    def __enter__(self) -> Flow:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()


def turns(answers: list[Any]) -> list[Any]:
    """The answers without repetitions."""
    return [answer for answer, _ in itertools.groupby(answers)]


def test_the_start_says_what_differs(site: Site) -> None:
    assert "warning: without a meaning here, ignored: --tensorflow_intra_op_parallelism\n" in site.log()
    assert "Listening on this machine alone" in site.log()
    assert site.address("tensorflow_grpc") == f"127.0.0.1:{site.grpc_port}"
    assert site.address("management") == f"http://127.0.0.1:{site.grpc_port + MANAGEMENT_DISTANCE}"


def test_versions_come_in_all_forms(site: Site) -> None:
    assert site.states("forms") == dict.fromkeys((1, 2, 3, 123), "AVAILABLE")
    assert [site.ask(f"forms/versions/{version}") for version in (1, 2, 3, 123)] == [1, 2, 2, 4]
    assert site.ask("forms") == 4  # the highest one


def test_labels_move_while_requests_flow(site: Site) -> None:
    """No request is lost, and each is answered by a version that the label has, or had."""
    assert site.ask("fit/labels/staging") == "Unrecognized servable version label: staging"
    with Flow(lambda: site.ask("fit/labels/production"), lambda: site.ask("fit/labels/test"), site.ask) as flow:
        site.write(site.model("fit", BOTH + labels(production=2, test=1)), *at_first(site)[1:])
        site.answers(2, "fit/labels/production")
        site.answers(1, "fit/labels/test")
    site.logged(f"{site.config} has changed: it serves fit, ")
    production, test, latest = flow.answers
    assert turns(production) == [1, 2]
    assert turns(test) == [2, 1]
    assert set(latest) == {2}


def test_versions_change_while_requests_flow(site: Site) -> None:
    """3 comes and 1 and 2 go, then 1 comes back for 3: each request is answered by one that is served."""
    with Flow(site.ask, lambda: site.ask("fit")) as flow:
        site.put(3)
        site.write(site.model("fit"), *at_first(site)[1:])
        site.reaches({1: "END", 2: "END", 3: "AVAILABLE"})
        assert site.ask("fit/versions/2") == "Servable not found for request: Specific(fit, 2)"
        site.write(site.model("fit", "model_version_policy { specific { versions: 1 } }"), *at_first(site)[1:])
        site.reaches({1: "AVAILABLE", 2: "END", 3: "END"})
    for answers in flow.answers:
        assert turns(answers) == [2, 3, 1]
    shutil.rmtree(site.folder / "fit" / "3")


def test_a_half_copied_folder_is_not_taken(site: Site) -> None:
    site.write(site.model("fit"), *at_first(site)[1:])
    folder = site.folder / "fit" / "4"
    folder.mkdir()
    parts = sorted((site.made / "4").iterdir(), key=lambda path: path.suffix == ".pdiparams")
    for path in parts[:-1]:
        shutil.copy(path, folder)
    end = time.monotonic() + 3.0  # as long as somebody writes to it, for several looks
    while time.monotonic() < end:
        with (folder / parts[-1].name).open("ab") as file:
            file.write(b"?")
        time.sleep(0.05)
        assert 4 not in site.states()
    shutil.copy(parts[-1], folder)
    site.answers(4)
    assert "fit/4 can't be served" not in site.log()
    shutil.rmtree(folder)
    site.answers(2)


def test_a_broken_version_does_not_disturb_the_one_that_serves(site: Site) -> None:
    site.write(site.model("fit"), *at_first(site)[1:])
    folder = site.folder / "fit" / "9"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"theirs")
    words = "no Paddle model (.pdmodel or .json, .pdiparams) and no archive in it; saved_model.pb is TensorFlow's"
    eventually(lambda: site.log().count(words) == 3)  # it is tried again twice
    eventually(lambda: site.states().get(9) == "END")
    status = site.status("fit", 9)
    assert (status["error_code"], words in status["error_message"]) == ("INVALID_ARGUMENT", True)
    assert site.ask() == 2
    (folder / "saved_model.pb").unlink()
    for path in (site.made / "5").iterdir():
        shutil.copy(path, folder)
    site.answers(5)  # files that change are reason enough to try again
    shutil.rmtree(folder)
    site.answers(2)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            "model_version_polcy { all {} }",
            'ModelConfig has no field "model_version_polcy"; did you mean model_',
        ),
        (
            BOTH + labels(production=5),
            "version_labels: production: version 5 is not among those of the policy spec",
        ),
        (
            "model_version_policy { all {} }" + labels(test=77),
            "test: version 77 is not available (available: 1, 2): give the label once it is, or allow it by --allow_",
        ),
    ],
)
def test_a_wrong_configuration_changes_nothing(site: Site, config: str, said: str) -> None:
    before = site.log().count(said)
    site.write(site.model("fit", config))
    eventually(lambda: site.log().count(said) > before)
    assert f"{said}" in site.log()
    assert (site.ask("fit/labels/production"), site.ask("fit/labels/test"), site.ask("forms")) == (1, 2, 4)


def test_a_base_path_that_comes_late_is_found(site: Site) -> None:
    path = site.folder / "late"
    site.logged(f"late can't be served: Could not find base path {path} for servable late: No such file or directory")
    assert site.ask("late") == "Servable not found for request: Latest(late)"
    assert "late" in requests.get(f"{site.address('inference')}/ping", timeout=60).text
    site.put(3, "late")
    site.answers(3, "late")
    assert requests.get(f"{site.address('inference')}/ping", timeout=60).json() == {"status": "Healthy"}
    shutil.rmtree(path / "3")
    site.logged(f"No versions of servable late found under base path {path}")
    site.reaches({3: "END"}, "late")
    site.logged("unloaded late/3")
