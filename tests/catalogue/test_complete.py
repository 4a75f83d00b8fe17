"""Every fault of the catalogue has its test, and what watches over the tests sees what it is there to see."""

from __future__ import annotations

import ast
import os
import re
import signal
import time
from pathlib import Path

from tests.catalogue.ward import Ward, own_lines
from tests.running import eventually
from tests.security.raw import connect

TESTS = Path(__file__).parent.parent
COUNTS = {"W": 20, "H": 24, "L": 20, "F": 15, "S": 10, "R": 7, "Q": 6}
IDS = {f"{kind}{number}" for kind, count in COUNTS.items() for number in range(1, count + 1)}
OTHERWISE = {"R4": "nothing is kept in /dev/shm: large data passes in memory files, which belong to no file system"}
README = (Path(__file__).parent / "README.md").read_text()


def marked() -> set[str]:
    ids: set[str] = set()
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.catalogue":
                ids |= {str(ast.literal_eval(argument)) for argument in node.args}
    return ids


def test_every_fault_has_a_test() -> None:
    assert marked() == IDS - OTHERWISE.keys()


def test_every_fault_is_described() -> None:
    assert set(re.findall(r"^\| ([A-Z]\d+) \|", README, re.MULTILINE)) == IDS


def test_what_is_missing_or_too_many_is_noticed(ward: Ward) -> None:
    """Negative controls: a worker that is gone, a child that is left over, a descriptor that stays open."""
    eventually(ward.whole)
    [pid] = ward.pids("one")
    os.kill(pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not ward.whole() or ward.pids("one") != {pid})
    eventually(ward.whole)

    child = ward.ask("one", "spawn").json()["child"]
    assert not ward.whole(), "the handler's child is one too many"
    os.kill(child, signal.SIGKILL)
    for pid in ward.pids("one"):
        os.kill(pid, signal.SIGKILL)

    left_open = [connect(ward.server.inference) for _ in range(5)]
    eventually(lambda: ward.open_descriptors() > ward.descriptors)
    for sock in left_open:
        sock.close()


def test_a_neighbour_that_suffers_is_noticed(ward: Ward) -> None:
    assert ward.canary.complaints == []
    [pid] = ward.pids("canary")
    asked = ward.canary.asked
    ward.ask("canary", "status", status=418)
    assert ward.canary.complaints == [], "somebody else's trouble"
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.2)
    os.kill(pid, signal.SIGCONT)
    eventually(lambda: ward.canary.asked > asked + 2)
    model, ward.canary.model = ward.canary.model, "nobody"
    eventually(lambda: ward.canary.complaints)
    ward.canary.model = model
    asked = ward.canary.asked
    eventually(lambda: ward.canary.asked > asked + 1)
    ward.canary.complaints.clear()


def test_a_fault_of_the_servers_own_is_told_from_a_workers() -> None:
    log = "1 [INFO] x - m/1.0 worker 3 | Traceback (most\n2 [ERROR] x - Traceback\n"
    assert own_lines(log) == ["2 [ERROR] x - Traceback"]
