"""W: workers that die, hang or grow, at any moment."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.catalogue.ward import Ward
from tests.running import eventually


def lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Held:
    """A request that is in its handler until it is let go."""

    def __init__(self, ward: Ward, model: str, folder: Path, count: int = 1) -> None:
        self.go = folder / "go"
        begun = [folder / f"begun{number}" for number in range(count)]
        bodies = [{"op": "wait_for", "begun": str(path), "go": str(self.go)} for path in begun]
        self.answers: list[Any] = []
        self._thread = threading.Thread(target=lambda: self.answers.extend(ward.together(model, *bodies)))
        self._thread.start()
        eventually(lambda: any(path.exists() for path in begun))
        self.worker = int(next(path for path in begun if path.exists()).read_text())

    def release(self) -> list[Any]:
        self.go.touch()
        self._thread.join(60)
        return self.answers


@pytest.mark.catalogue("W1")
def test_an_idle_worker_is_killed(ward: Ward) -> None:
    victim = min(ward.pids("two"))
    os.kill(victim, signal.SIGKILL)
    answers = [ward.ask("two") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200] * 5
    assert victim not in {answer.json()["pid"] for answer in answers}


@pytest.mark.catalogue("W2", "W10", "R5")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_ends_in_the_middle_of_a_batch(ward: Ward, tmp_path: Path, number: int) -> None:
    held = Held(ward, "batch", tmp_path, 8)
    before = ward.server.metric("pd_requests_retried_total", model_name="batch")
    os.kill(held.worker, number)
    if number == signal.SIGSTOP:  # frozen for a while: nothing is lost by that alone
        os.kill(held.worker, signal.SIGCONT)
    answers = held.release()
    assert [answer.status_code for answer in answers] == [200] * 8
    retried = ward.server.metric("pd_requests_retried_total", model_name="batch") - before
    assert retried == (8 if number == signal.SIGKILL else 0)


@pytest.mark.catalogue("W3")
def test_a_worker_ends_in_the_middle_of_its_answer(ward: Ward, mark: str) -> None:
    assert ward.ask("two", "partial_frame", mark=mark).status_code == 200


@pytest.mark.catalogue("W4")
def test_a_worker_ends_with_a_large_request(ward: Ward, mark: str) -> None:
    assert ward.ask("two", "die", mark=mark, padding="x" * (32 << 20)).status_code == 200


@pytest.mark.catalogue("W5")
def test_all_workers_are_killed_again_and_again(ward: Ward) -> None:
    answers = []
    for _ in range(3):
        killed = ward.pids("two")
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        # A request that meets one and then the other before the server has seen them die would have had its two tries.
        eventually(partial(lambda pids: pids.isdisjoint(ward.pids("two")), killed))
        answers.append(ward.ask("two"))
    assert [answer.status_code for answer in answers] == [200] * 3


@pytest.mark.catalogue("W6")
def test_a_request_waits_for_the_only_worker_to_come_back(ward: Ward) -> None:
    [victim] = ward.pids("one")
    os.kill(victim, signal.SIGKILL)
    assert ward.ask("one").json()["pid"] != victim


@pytest.mark.catalogue("W7", "H22")
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_poisonous_request_hurts_only_itself(ward: Ward, number: int) -> None:
    bodies: list[dict[str, Any]] = [{"op": "kill_self", "signal": number}, *({} for _ in range(7))]
    answers = ward.together("batch", *bodies)
    assert [answer.status_code for answer in answers] == [500] + [200] * 7
    assert signal.Signals(number).name in answers[0].json()["message"]


@pytest.mark.catalogue("W7")
def test_what_must_not_run_twice_does_not(ward: Ward, mark: str) -> None:
    answer = ward.ask("once", "die", mark=mark)
    assert answer.status_code == 500
    assert "retryOnWorkerDeath: false" in answer.json()["message"]


@pytest.mark.catalogue("W8", "W10", "H17")
@pytest.mark.parametrize("op", ["spin", "pause", "kill_self"])
def test_a_worker_hangs(ward: Ward, op: str) -> None:
    answer = ward.ask("brief", op, signal=signal.SIGSTOP)
    assert answer.status_code == 504
    assert "responseTimeout" in answer.json()["message"]
    if op != "kill_self":  # one that is frozen can't say where
        ward.server.logged("Fatal Python error: Aborted")
        eventually(lambda: f"in {op}" in ward.server.log())


@pytest.mark.catalogue("W9")
def test_a_late_answer_reaches_nobody(ward: Ward) -> None:
    for _ in range(2):
        assert ward.ask("brief", "sleep", seconds=1.3).status_code == 504
        for _ in range(3):
            assert ward.ask("brief").status_code == 200


@pytest.mark.catalogue("W11")
def test_a_handler_has_not_enough_memory(ward: Ward) -> None:
    before = ward.pids("two")
    assert ward.ask("two", "out_of_memory").status_code == 507
    assert ward.pids("two") == before


@pytest.mark.catalogue("W12")
def test_the_kernel_takes_a_worker_for_its_memory(ward: Ward) -> None:
    answer = ward.ask("two", "kill_self", signal=signal.SIGKILL)
    assert answer.status_code == 500
    assert "perhaps out of memory" in answer.json()["message"]


@pytest.mark.catalogue("W13", "W14")
def test_a_handler_raises_what_is_no_exception(ward: Ward) -> None:
    before = ward.pids("two")
    for kind in ("SystemExit", "KeyboardInterrupt", "GeneratorExit"):
        answer = ward.ask("two", "base_exception", kind=kind)
        assert (answer.status_code, kind in answer.json()["message"]) == (500, True)
    assert ward.pids("two") == before


@pytest.mark.catalogue("W13")
def test_an_exit_without_an_error_is_a_death_too(ward: Ward) -> None:
    answer = ward.ask("two", "die", status=0)
    assert (answer.status_code, "exited with status 0" in answer.json()["message"]) == (500, True)


@pytest.mark.catalogue("W15")
@pytest.mark.parametrize(("op", "words"), [("recurse", "RecursionError"), ("recurse_in_c", "SIGSEGV")])
def test_a_stack_overflows(ward: Ward, op: str, words: str) -> None:
    answer = ward.ask("two", op)
    assert answer.status_code == 500
    assert words in answer.json()["message"]


@pytest.mark.catalogue("W16")
def test_workers_that_have_served_for_long_are_replaced_and_nothing_is_lost(ward: Ward) -> None:
    before = ward.pids("worn")
    answers = [ward.ask("worn") for _ in range(100)]

    def replaced() -> bool:
        answers.extend(ward.together("worn", {}, {}))  # or one of the two might get too little to do
        return before.isdisjoint(ward.pids("worn"))

    eventually(replaced)
    assert {answer.status_code for answer in answers} == {200}
    assert ward.server.describe("worn")["workerRestarts"] == 0


@pytest.mark.catalogue("W16")
def test_a_worker_that_grows_is_replaced(ward: Ward) -> None:
    [before] = ward.pids("heavy")
    assert ward.ask("heavy", "leak", megabytes=150).json()["pid"] == before

    def replaced() -> bool:
        assert ward.ask("heavy").status_code == 200
        return before not in ward.pids("heavy")

    eventually(replaced)


@pytest.mark.catalogue("W17")
@pytest.mark.parametrize("escape", [False, True])
def test_what_a_handler_started_ends_with_its_worker(ward: Ward, escape: bool) -> None:
    said = ward.ask("one", "spawn", escape=escape).json()
    assert lives(said["child"])
    os.kill(said["pid"], signal.SIGKILL)
    eventually(lambda: not lives(said["child"]))


@pytest.mark.catalogue("W18", "H12", "H13")
def test_a_worker_that_ignores_signals_is_scaled_down(ward: Ward) -> None:
    for op in ("change_process", "thread"):
        assert ward.ask("one", op).status_code == 200
    [stubborn] = ward.pids("one")
    for workers in (0, 1):
        assert ward.server.manage("PUT", f"/models/one?min_worker={workers}&synchronous=true").status_code == 200
    assert not lives(stubborn)


@pytest.mark.catalogue("W19")
def test_only_the_own_children_are_signalled(ward: Ward) -> None:
    """The nursery is the workers' parent, and signals no other: while a worker is not reaped, its pid is its own."""
    parents = {psutil.Process(pid).ppid() for model in ward.workers for pid in ward.pids(model)}
    assert len(parents) == 1
    [nursery] = parents
    assert psutil.Process(nursery).ppid() == ward.process.pid


@pytest.mark.catalogue("W5", "F5")
def test_the_nursery_is_killed(ward: Ward) -> None:
    [nursery] = {psutil.Process(pid).ppid() for pid in ward.pids("two")}
    lasting = ward.workers.keys() - {"worn"}  # one of its workers may just have served for long enough
    before = {model: ward.pids(model) for model in lasting}
    os.kill(nursery, signal.SIGKILL)
    for model in ward.workers:
        assert ward.ask_for_a_batch(model) == 200
    assert {model: ward.pids(model) for model in lasting} == before, "served through"
    answer = ward.ask("brief", "spin")
    assert answer.status_code == 504, "an orphan that hangs is ended as well"
    for model in ward.workers:  # and what they had, they have again
        for pid in ward.pids(model):
            os.kill(pid, signal.SIGKILL)
    eventually(ward.whole)
    assert requests.get(f"{ward.server.inference}/ping", timeout=60).status_code == 200
