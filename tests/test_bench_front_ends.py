"""The comparison of front ends: whose CPU time it counts, where it puts processes, and what its table says."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from bench import rings
from bench.kinds import KINDS, MAIN, by_kind, cpu_by_kind, pin
from bench.load import ask
from bench.peers.base import Configuration
from bench.peers.ours import Ours, wait_until_loaded
from bench.results import Measurement
from bench.rings import RING, SOCKETPAIR
from bench.scenarios.front_ends import APART, ONE, SETUPS, FrontEnds, Setup
from bench.tables import OURS
from bench.workloads import prepare
from tests.test_bench import measured


def test_a_server_is_divided_by_kind_and_bound_to_cores(tmp_path: Path) -> None:
    workload = prepare("fit")
    core = min(os.sched_getaffinity(0))
    with Ours().start(workload, Configuration(workers=2), tmp_path, {"front_ends": "3"}) as server:
        wait_until_loaded(server)
        found = by_kind(server.processes)
        assert [len(found[kind]) for kind in KINDS] == [3, 1, 2]
        everybody = [process for each in found.values() for process in each]
        assert found[MAIN][0].pid == server.processes.pid
        before = cpu_by_kind(server.processes)
        for _ in range(20):
            ask(server.target)
        spent = {kind: seconds - before[kind] for kind, seconds in cpu_by_kind(server.processes).items()}
        assert min(spent.values()) > 0
        pin(server.processes, dict.fromkeys(KINDS, (core,)))
        for process in everybody:
            for thread in process.threads():
                assert os.sched_getaffinity(thread.id) == {core}
        ask(server.target)
    assert not any(psutil.pid_exists(process.pid) for process in everybody)


@pytest.mark.parametrize("line", [SOCKETPAIR, RING])
def test_messages_pass_both_lines(line: str) -> None:
    costs = rings.measure(line, 64, 0.2)
    assert min(costs.values()) > 0


def test_a_ring_gives_frames_back_in_order_when_it_wraps() -> None:
    ring = rings.Ring()
    sizes = [1, 7, 8, 9, 100_000, 300_000, 524_000]
    for number in range(200):
        frame = bytearray([number]) * sizes[number % len(sizes)]
        assert ring.write(frame)
        assert ring.read() == bytes(frame)
    assert ring.read() is None
    while ring.write(bytearray(100_000)):
        pass
    assert not ring.write(bytearray(100_000))
    assert ring.read() == bytes(100_000)
    assert not ring.sleep()


def test_the_table_adds_the_processes_up() -> None:
    def cell(setup: Setup, p50_ms: float, **costs: float) -> Measurement:
        values = {"requests_per_second": 100.0, "p50_ms": p50_ms, **costs}
        return Measurement(server=OURS, configuration=str(setup), case="fit c=1", round=1, values=values)

    beside = next(setup for setup in SETUPS if setup.pinning == APART)
    cells = (
        cell(SETUPS[0], 0.2, front_end_us=0.0, main_us=40.0, worker_us=20.0),
        cell(beside, 0.3, front_end_us=30.0, main_us=25.0, worker_us=20.0),
    )
    text = FrontEnds().report(measured(*cells))
    assert f"| c=1: {ONE}, its worker on the other core |  | 40.0 | 20.0 | 60.0 | 100/s | 0.200 ms |" in text
    assert f"| c=1: {beside} | 30.0 | 25.0 | 20.0 | 75.0 | 100/s | 0.300 ms |" in text
    assert "add 100 µs to the p50" in text
