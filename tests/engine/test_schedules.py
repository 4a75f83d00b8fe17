"""Random schedules: whatever clients, workers and operators do in whatever order, every request has its one outcome.

PDSERVER_SOAK=N plays N schedules instead of the few of every day.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pdserver.engine.lifecycle import SERVING, VersionState
from tests.engine.virtual import World

SCHEDULES = int(os.environ.get("PDSERVER_SOAK", "80"))
STEPS = 50


class Schedule(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world: World | None = None

    @property
    def w(self) -> World:
        assert self.world is not None
        return self.world

    @initialize(
        workers=st.integers(1, 3),
        batch_size=st.integers(1, 4),
        delay=st.sampled_from([0.0, 0.05]),
        retry=st.booleans(),
        most_requests=st.sampled_from([0, 3]),
        fast=st.booleans(),
    )
    def begin(self, workers: int, batch_size: int, delay: float, retry: bool, most_requests: int, fast: bool) -> None:
        self.world = World(
            min_workers=workers,
            max_workers=workers,
            batch_size=batch_size,
            max_batch_delay_seconds=delay,
            retry_on_worker_death=retry,
            max_requests_per_worker=most_requests,
            handler="base_handler",
        )
        if fast:  # then a worker may have two batches
            self.world.backend.seconds = 0.0015
        self.wanted = workers

    @rule(op=st.sampled_from(["", "", "", "", "die", "hang"]), timeout=st.sampled_from([0.0, 0.0, 0.02, 0.4]))
    def submit(self, op: str, timeout: float) -> None:
        self.w.submit(op, timeout)

    @rule(count=st.integers(2, 6))
    def submit_many(self, count: int) -> None:
        for _ in range(count):
            self.w.submit()

    @rule(index=st.integers(0, 50))
    def client_leaves(self, index: int) -> None:
        waiting = [call for call in self.w.oracle.calls.values() if not call.settled]
        if waiting:
            waiting[index % len(waiting)].cancel()

    @rule(index=st.integers(0, 5))
    def kill(self, index: int) -> None:
        self.w.kill(index)

    @rule(broken=st.booleans())
    def change_the_model(self, broken: bool) -> None:
        self.w.backend.broken = broken

    @rule(seconds=st.sampled_from([0.001, 0.05, 3.0]))
    def load_slowly(self, seconds: float) -> None:
        self.w.backend.load_seconds = seconds

    @rule(workers=st.integers(0, 4))
    def scale(self, workers: int) -> None:
        async def scale() -> None:
            self.w.pool.scale(workers, max_workers=4)

        self.wanted = workers
        self.w.run(scale())

    @rule(batch_size=st.integers(1, 4))
    def change(self, batch_size: int) -> None:
        async def change() -> None:
            self.w.pool.change({"batch_size": batch_size})

        self.w.oracle.largest = max(self.w.oracle.largest, batch_size)
        self.w.run(change())

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.004, 0.011, 0.06, 0.3, 2.5, 8.0]))
    def time_passes(self, seconds: float) -> None:
        self.w.advance(seconds)

    @invariant()
    def nobody_has_what_is_not_theirs(self) -> None:
        if self.world is not None:
            self.w.oracle.check()
            assert len(self.w.pool.slots) == self.wanted

    def teardown(self) -> None:
        if self.world is None:
            return
        w = self.world
        w.backend.broken = False
        w.backend.load_seconds = 0.05
        w.advance(60)
        w.oracle.check_end()
        assert len(w.pool.queue) == 0
        if self.wanted:
            assert w.submit() is not None, "it heals"
            w.advance(10)
            w.oracle.check_end()
            assert w.pool.state is VersionState.READY
            assert all(slot.state in SERVING for slot in w.pool.slots)
        assert len(w.backend.alive) == self.wanted
        for op in ("", "hang", ""):
            w.submit(op)
        w.close(drain_seconds=1)
        w.oracle.check_end()
        assert not w.backend.alive


TestSchedules = Schedule.TestCase
TestSchedules.settings = settings(
    max_examples=SCHEDULES,
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
