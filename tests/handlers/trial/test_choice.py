"""The fastest engine is chosen whose answers are right, whatever the others do, and it is remembered."""

from __future__ import annotations

import errno
import fcntl
import gc
import itertools
import logging
import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import numpy as np
import psutil
import pytest

import pdserver
from pdserver.handlers.runtime.engines.base import Engine
from pdserver.handlers.runtime.rows import Arrays
from pdserver.handlers.runtime.trial import apart, choice
from pdserver.handlers.runtime.trial.apart import Result
from pdserver.handlers.runtime.trial.choice import Choice, Contender, choose
from pdserver.handlers.runtime.trial.comparison import Tolerance
from pdserver.handlers.runtime.trial.inputs import Inputs
from pdserver.handlers.runtime.trial.memory import Memory, circumstances, of_files
from pdserver.types import EngineTrial
from tests.handlers.trial.engines import Clock, Double, contender, samples
from tests.running import open_descriptors

ABOUT = {"model": "m"}
DAMAGED: list[Callable[[bytes], bytes]] = [
    lambda kept: kept[:-9],
    lambda kept: b"",
    lambda kept: kept[:-1] + b',"more":' + b"[" * 100_000,
    lambda kept: kept.replace(b'"chosen":"', b'"chosen":"un'),
    lambda kept: kept.replace(b'"engine":"', b'"engine":"un'),
    lambda kept: kept.replace(b'"sizes":[', b'"sizes":[' + b"9" * 30),
]
"""What may be found of an outcome that was kept."""


def chosen(
    clock: Clock,
    *contenders: Contender,
    reference: Contender | None = None,
    sizes: tuple[int, ...] = (1, 8),
    compared: Sequence[Arrays] = (),
) -> Choice:
    inputs = Inputs("made", samples(*sizes), compared)
    return choose(contenders, lambda: inputs, Memory(None), ABOUT, reference, clock=clock)


def out(found: Choice) -> dict[str, str]:
    assert found.outcome is not None
    return {each.engine: each.out for each in found.outcome.figures}


def test_the_fastest_is_chosen_and_its_figures_are_told() -> None:
    clock = Clock()
    found = chosen(clock, contender(clock, "paddle", 4), contender(clock, "fast", 1), contender(clock, "slow", 9))
    assert found.chosen.name == "fast"
    assert found.outcome is not None
    assert found.outcome.sizes == (1, 8)
    assert [each.milliseconds for each in found.outcome.figures] == [
        pytest.approx(times) for times in ((4, 32), (1, 8), (9, 72))
    ]


@pytest.mark.parametrize("off", [1e-2, float("nan")])
def test_a_wrong_engine_is_never_chosen(off: float, caplog: pytest.LogCaptureFixture) -> None:
    """However fast it is. The log says by how much it is wrong."""
    clock = Clock()
    found = chosen(clock, contender(clock, "paddle", 4), contender(clock, "wrong", 0.01, off=off))
    assert found.chosen.name == "paddle"
    told = out(found)["wrong"]
    assert told.startswith('output "y" differs by ')
    assert f"wrong is not used: its answers are not those of paddle: {told}" in caplog.text


def test_a_slightly_different_one_may_be_chosen() -> None:
    clock = Clock()
    assert chosen(clock, contender(clock, "paddle", 4), contender(clock, "fast", 1, off=1e-5)).chosen.name == "fast"


def test_none_is_chosen_that_is_slower_for_some_batch_or_gains_next_to_nothing() -> None:
    clock = Clock()
    slower = contender(clock, "slower", 1, more=5)
    assert chosen(clock, contender(clock, "paddle", 4), slower).chosen.name == "paddle"
    assert chosen(clock, contender(clock, "paddle", 4), contender(clock, "same", 3.95)).chosen.name == "paddle"


def test_a_wrong_answer_to_a_further_sample_is_enough(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    further = [{"x": np.full((2, 4), 0.001, np.float32)}]
    near = contender(clock, "near", 1, off=1e-5)
    assert chosen(clock, contender(clock, "paddle", 4), near).chosen.name == "near"
    found = chosen(clock, contender(clock, "paddle", 4), near, compared=further)
    assert found.chosen.name == "paddle"
    assert "near is not used: its answers are not those of paddle" in caplog.text


def test_a_reference_that_is_only_compared_with() -> None:
    """It is not chosen, however fast it is, unless all others are wrong."""
    clock = Clock()
    lower = Tolerance(2e-2)
    right, wrong = (contender(clock, name, 4, off=off, tolerance=lower) for name, off in (("a", 1e-3), ("b", 0.5)))
    faster = contender(clock, "c", 2, off=1e-3, tolerance=lower)
    reference = contender(clock, "paddle", 0.1)
    assert chosen(clock, right, wrong, faster, reference=reference).chosen.name == "c"
    found = chosen(clock, wrong, reference=reference)
    assert found.chosen.name == "paddle"
    assert out(found)["b"].endswith("and may by 2.0e-02")


def test_an_engine_that_may_differ_however_much() -> None:
    clock = Clock()
    named = contender(clock, "named", 4, off=0.5, tolerance=None)
    lower = contender(clock, "lower", 1, off=0.5, tolerance=Tolerance(2e-2))
    found = chosen(clock, named, lower, reference=contender(clock, "paddle", 9))
    assert found.chosen.name == "named"
    assert out(found)["named"] == ""
    assert out(found)["lower"] != ""


def test_engines_that_cannot_load_crash_or_hang_are_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses() -> Engine:
        raise ValueError("no such operation")

    def crashes() -> Engine:
        os.kill(os.getpid(), signal.SIGSEGV)
        raise AssertionError

    def hangs() -> Engine:
        time.sleep(60)
        raise AssertionError

    def leaves() -> Engine:
        os._exit(3)

    monkeypatch.setattr(choice, "_HANGS_SECONDS", 1.0)
    before = psutil.Process().children()
    clock = Clock()
    others = [Contender(load.__name__, load) for load in (refuses, crashes, hangs, leaves)]
    found = chosen(clock, contender(clock, "paddle", 4), *others)
    assert found.chosen.name == "paddle"
    told = out(found)
    assert told.pop("hangs").startswith("took longer than ")
    assert told == {
        "paddle": "",
        "refuses": "no such operation",
        "crashes": "its process was ended by SIGSEGV",
        "leaves": "its process ended with status 3",
    }
    assert psutil.Process().children() == before


def test_a_reference_that_does_not_run_is_chosen_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    def refuses() -> Engine:
        raise ValueError("it needs other inputs")

    clock = Clock()
    found = chosen(clock, Contender("paddle", refuses), contender(clock, "fast", 1))
    assert (found.chosen.name, found.outcome) == ("paddle", None)
    assert "no trial of engines, so that paddle runs the model: paddle fails: it needs other inputs" in caplog.text


def test_large_batches_are_left_out_where_they_would_take_too_long() -> None:
    clock = Clock()
    found = chosen(clock, contender(clock, "paddle", 200), contender(clock, "fast", 100), sizes=(1, 32))
    assert found.chosen.name == "fast"
    assert found.outcome is not None
    assert found.outcome.sizes == (1,)


def test_none_is_left_out_because_a_run_had_to_wait() -> None:
    """For a processor, on a busy machine: another run tells how long runs take."""

    class Waits(Double):
        def run(self, inputs: Arrays) -> Arrays:
            self.clock.seconds += next(waits)
            return super().run(inputs)

    clock, waits = Clock(), itertools.chain([0.0, 0.6], itertools.repeat(0.0))
    paddle = Contender("paddle", lambda: Waits(clock, 4, more=1.0, off=0.0))
    found = chosen(clock, paddle, contender(clock, "fast", 1))
    assert found.outcome is not None
    assert found.outcome.sizes == (1, 8)


def test_it_is_remembered_until_anything_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock, memory, runs = Clock(), Memory(tmp_path / "engines"), list[str]()
    contenders = [contender(clock, "paddle", 4), contender(clock, "fast", 1)]

    def counted(work: Callable[[], Result], seconds: float) -> Result:
        runs.append("run")
        return apart.run(work, seconds)

    def again(memory: Memory, about: dict[str, object]) -> tuple[str, bool, int]:
        runs.clear()
        inputs = Inputs("made", samples(1, 2))
        found = choose(contenders, lambda: inputs, memory, about, run_apart=counted, clock=clock)
        return found.chosen.name, found.remembered, len(runs)

    about: dict[str, object] = {"model": "m", **circumstances()}
    assert again(memory, about) == ("fast", False, 2)
    assert again(Memory(tmp_path / "engines"), about) == ("fast", True, 0)
    assert again(memory, {**about, "model": "n"}) == ("fast", False, 2)
    contenders[1] = contender(clock, "fast", 1, tolerance=Tolerance(1e-3))
    assert again(memory, about) == ("fast", False, 2)
    contenders.append(contender(clock, "faster", 0.5))
    assert again(memory, about) == ("faster", False, 3)
    assert again(Memory(None), about) == ("faster", False, 3)
    for damaged in DAMAGED:
        for path in (tmp_path / "engines").glob("*.json"):
            path.write_bytes(damaged(path.read_bytes()))
        assert again(memory, about) == ("faster", False, 3)
        assert again(memory, about) == ("faster", True, 0)
    assert not [path for path in (tmp_path / "engines").iterdir() if path.name.startswith(".") and path.suffix]
    (tmp_path / "file").touch()
    assert again(Memory(tmp_path / "file"), about) == ("faster", False, 3)
    assert "cannot be kept" in caplog.text


def test_what_is_remembered_does_not_wait_for_others_trials(tmp_path: Path) -> None:
    clock, memory = Clock(), Memory(tmp_path)
    inputs = Inputs("made", samples(1))

    def again() -> Choice:
        return choose([contender(clock, "paddle", 4), contender(clock, "fast", 1)], lambda: inputs, memory, ABOUT,
                      clock=clock)  # fmt: skip

    assert not again().remembered
    with ThreadPoolExecutor() as pool:
        with memory.turn():
            found = pool.submit(again).result(timeout=60)
        assert (found.chosen.name, found.remembered) == ("fast", True)


def test_nothing_is_left_of_what_cannot_be_written(tmp_path: Path) -> None:
    about: dict[str, object] = {"model": "m"}
    memory, outcome = Memory(tmp_path), EngineTrial(chosen="x", figures=(), sizes=(1,))
    memory.keep(about, outcome)
    (kept,) = tmp_path.iterdir()
    kept.unlink()
    kept.mkdir()
    memory.keep(about, outcome)
    assert list(tmp_path.iterdir()) == [kept]
    kept.rmdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    heeded = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))  # as on a disk that is full
    try:
        memory.keep(about, outcome)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, heeded)
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    clock = Clock()
    contenders = [contender(clock, "paddle", 4), contender(clock, "fast", 1)]
    before = open_descriptors(os.getpid())
    found = choose(contenders, lambda: Inputs("made", samples(1)), Memory(tmp_path), ABOUT, clock=clock)
    assert found.chosen.name == "fast"
    assert open_descriptors(os.getpid()) == before


def test_what_tells_models_apart(tmp_path: Path) -> None:
    model, weights = tmp_path / "m.json", tmp_path / "m.pdiparams"
    model.write_bytes(b"{}")
    weights.write_bytes(b"12")
    before = of_files(model, weights, {})
    weights.write_bytes(b"123")
    assert of_files(model, weights, {}) != before
    assert of_files(model, weights, {"m.json": "sum"}) == {"files": {"m.json": "sum"}}


def test_what_comes_back_from_the_other_process_is_what_was_there() -> None:
    given = {
        "scalar": np.array(1.5, np.float16),
        "none": np.zeros((0, 3), np.int64),
        "across": np.arange(6, dtype=np.float64).reshape(2, 3).T,
        "truths": np.array([[True, False]]),
    }
    back = apart.run(lambda: Result(b"text", given), 5)
    assert back.text == b"text"
    assert [(name, array.dtype, array.shape, array.tolist()) for name, array in back.arrays.items()] == [
        (name, array.dtype, array.shape, array.tolist()) for name, array in given.items()
    ]


def test_what_the_parent_left_to_be_collected_is_not_the_childs_to_end() -> None:
    """An engine of a process that is not there any more crashes when it is ended."""

    class Left:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            if os.getpid() != parent:
                os.abort()

    def work() -> Result:
        gc.collect()
        return Result(b"done", {})

    parent = os.getpid()
    gc.disable()  # so that it is still there when the child begins
    try:
        Left()
        assert apart.run(work, 60).text == b"done"
    finally:
        gc.enable()


def test_circumstances_have_the_versions_that_are_installed() -> None:
    versions = circumstances()["versions"]
    assert isinstance(versions, dict)
    assert versions["pdserver"] == pdserver.__version__
    for package in ("onnxruntime", "openvino", "paddlepaddle"):
        assert versions[package] == metadata.version(package)
