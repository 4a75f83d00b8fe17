"""Who takes how many requests, where a batch takes milliseconds: by a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from pdserver.types import Outcome, Part, Request
from tests.engine.virtual import SeenCall, World

RETURN_SECONDS = 0.0001
"""From an answer to the next request of its client, for the first client; the second takes twice as long, and so on."""


class Asked(SeenCall):
    def __init__(self, w: World, name: str) -> None:
        super().__init__(Request("m", None, name, [Part("body", "", name.encode())]), w.loop.time)
        self.done = asyncio.get_running_loop().create_future()
        w.oracle.calls[name] = self

    def settle(self, outcome: Outcome) -> None:
        super().settle(outcome)
        self.done.set_result(None)


@pytest.fixture
def worlds() -> Iterator[list[World]]:
    made: list[World] = []
    yield made
    for world in made:
        world.oracle.check_end()
        world.close()


def world(
    worlds: list[World], workers: int, *, seconds: float = 0.004, row_seconds: float = 0.004, delay_seconds: float = 0.0
) -> World:
    """The usual cost of a vision model on the CPU, in batches of 8 at most."""
    made = World(min_workers=workers, max_workers=workers, batch_size=8, max_batch_delay_seconds=delay_seconds)
    made.backend.seconds, made.backend.row_seconds = seconds, row_seconds
    worlds.append(made)
    made.advance(0.1)
    return made


def closed_loop(w: World, clients: int, rounds: int) -> float:
    """Each client asks again a little after it was answered. Gives the requests per second."""

    async def client(number: int) -> None:
        for turn in range(rounds):
            await asyncio.sleep(RETURN_SECONDS * (1 + number))
            call = Asked(w, f"{number} {turn}")
            w.pool.submit(call)
            await call.done

    async def all_clients() -> float:
        began = w.loop.time()
        await asyncio.gather(*map(client, range(clients)))
        return clients * rounds / (w.loop.time() - began)

    return w.run(all_clients())


def mean_batch(w: World) -> float:
    batches = w.oracle.batches
    return sum(batches) / len(batches)


@pytest.mark.parametrize(("workers", "clients", "least"), [(1, 8, 7.0), (2, 8, 3.5), (2, 4, 1.8), (1, 2, 1.8)])
def test_clients_that_ask_again_together_are_answered_together(
    worlds: list[World], workers: int, clients: int, least: float
) -> None:
    w = world(worlds, workers)
    rate = closed_loop(w, clients, 40)
    assert mean_batch(w) >= least
    share = clients / workers
    assert rate >= 0.85 * clients / (0.004 + 0.004 * share), "of what full shares without a pause would give"


def test_a_client_alone_never_waits(worlds: list[World]) -> None:
    w = world(worlds, 2)
    closed_loop(w, 1, 20)
    assert {round(call.settled_at - call.arrived, 9) for call in w.oracle.calls.values()} == {0.008}


def test_clients_that_do_not_come_back_are_seldom_waited_for(worlds: list[World]) -> None:
    w = world(worlds, 1)

    async def arrivals() -> None:
        for pair in range(100):
            for number in range(2):
                w.pool.submit(Asked(w, f"{pair} {number}"))
                await asyncio.sleep(0.003)
            await asyncio.sleep(0.05)

    w.run(arrivals())
    # The first runs at once, the second when that has ended, after 5 ms of waiting, unless it is put off.
    seconds = [call.settled_at - call.arrived for call in w.oracle.calls.values()]
    put_off = [took for took in seconds[1::2] if took > 0.0131]
    assert max(seconds) < 0.0139
    assert len(put_off) < 10


def test_no_worker_takes_what_others_could(worlds: list[World]) -> None:
    """Six wait when the first of two workers has answered: it could take them all, and takes its half of all seven."""
    w = world(worlds, 2)
    for _ in range(2):
        w.submit()
    w.advance(0.001)
    calls = [w.submit() for _ in range(6)]
    w.advance(0.2)
    assert all(call is not None and call.settled for call in calls)
    assert w.oracle.batches == [1, 1, 4, 2]


def test_where_a_batch_takes_no_time_one_takes_all(worlds: list[World]) -> None:
    w = world(worlds, 2, seconds=0.001, row_seconds=0.0)
    for _ in range(2):
        w.submit()
    w.advance(0.0005)
    for _ in range(6):
        w.submit()
    w.advance(0.2)
    assert w.oracle.batches == [1, 1, 6]


def test_a_full_batch_leaves_whole_where_a_delay_is_set(worlds: list[World]) -> None:
    """A share of it would be no full batch, and what is left would wait for the delay."""
    w = world(worlds, 2, delay_seconds=60.0)
    for _ in range(3):
        calls = [w.submit() for _ in range(8)]
        w.advance(0.2)
        assert all(call is not None and call.settled for call in calls)
    assert w.oracle.batches == [8, 8, 8]
