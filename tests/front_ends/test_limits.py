"""Limits that several processes keep together, by a page that they share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdserver.configuration.tokens import Scope
from pdserver.security.failures import ALL, EACH, SharedFailures
from pdserver.security.keyring import Keyring
from pdserver.security.limits import TOKENS, Limits, SharedLimits
from pdserver.security.refused import Refused
from pdserver.system.shared_page import SharedPage
from tests.front_ends.pages import pages

_BYTES = 100


@pytest.fixture(name="pages")
def _pages() -> list[SharedPage]:
    return pages(3)


def test_a_page_works_between_processes(pages: list[SharedPage]) -> None:
    child = os.fork()
    if not child:
        pages[1].own[5] = 7
        os._exit(0)
    os.waitpid(child, 0)
    assert pages[2].total(5) == 7


def test_connections_count_on_all_front_ends(pages: list[SharedPage]) -> None:
    one, two = (SharedLimits(_BYTES, page).connections("inference") for page in pages[1:])
    other = SharedLimits(_BYTES, pages[1]).connections("grpc_inference")
    for number in range(3):
        one.add(number)
        other.add(number)
    assert not two.exceed(3)
    two.add("x")
    assert (one.exceed(3), two.exceed(3), other.exceed(3)) == (True, True, False)
    one.discard(0)
    assert not two.exceed(3)
    assert len(one) == 2, "a front end that stops waits for its own"


def test_what_a_dead_front_end_had_is_free_again(pages: list[SharedPage]) -> None:
    main, dying, other = (SharedLimits(_BYTES, page) for page in pages)
    dying.connections("oip").add("x")
    assert dying.receiving.take(90, 0)
    assert not other.receiving.take(20, 0) or other.receiving.held_bytes == 20
    pages[0].bury(1)
    assert not main.connections("oip").exceed(0)
    assert other.receiving.take(80, 20)


@given(steps=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60), st.booleans())))
def test_bodies_have_one_budget(steps: list[tuple[int, int, bool]]) -> None:
    """As tests/test_budget.py has it for one process, with bodies in all of them."""
    budgets = [SharedLimits(_BYTES, page).receiving for page in pages(3)]
    bodies = [0] * 5
    for body, more, complete in steps:
        budget = budgets[body % 3]
        if budget.take(more, bodies[body]):
            bodies[body] += more
        if complete:
            budget.give_back(bodies[body])
            bodies[body] = 0
        held = sum(each.held_bytes for each in budgets)
        assert held == sum(bodies)
        assert held <= _BYTES or sum(1 for each in bodies if each) == 1


def test_failures_of_a_client_count_on_all_front_ends(pages: list[SharedPage]) -> None:
    one, two = (SharedLimits(_BYTES, page).failures(TOKENS) for page in pages[1:])
    tried = [each.another("10.0.0.1", 5.0) for each in (one, two) for _ in range(EACH)]
    assert tried == [False] * EACH + [True] * EACH
    assert not two.another("10.0.0.2", 5.5)
    assert not two.another("10.0.0.1", 6.0), "another second"
    assert not one.another("10.0.0.1", 6.0)


def test_failures_of_all_clients_count_on_all_front_ends(pages: list[SharedPage]) -> None:
    both = [SharedFailures(page, 0) for page in pages[:2]]
    refused = [both[number % 2].another(f"10.0.{number}.1", 5.0) for number in range(ALL * 2)]
    assert refused.count(False) <= ALL
    assert all(refused[ALL + 50 :])


def test_one_process_counts_by_itself() -> None:
    one, two = Limits(_BYTES), Limits(_BYTES)
    assert one.receiving.take(90, 0)
    assert two.receiving.take(90, 0)


def test_a_front_end_makes_no_tokens_and_knows_new_ones_at_once(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    main = Keyring((), file)
    front_end = Keyring((), file, makes_tokens=False)
    old, written = main.tokens, file.read_bytes()
    key = main.renew(Scope.INFERENCE)
    assert front_end.tokens == old
    assert front_end.check(b"Bearer " + key.encode(), frozenset({Scope.INFERENCE}), "client") == "inference"
    with pytest.raises(Refused):
        front_end.check(b"Bearer wrong", frozenset({Scope.INFERENCE}), "client")
    assert file.read_bytes() != written


def test_expired_tokens_stay_as_they_are_when_a_front_end_starts(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    Keyring((), file, expire_after_seconds=-1)
    written = file.read_bytes()
    Keyring((), file, expire_after_seconds=-1, makes_tokens=False)
    assert file.read_bytes() == written
