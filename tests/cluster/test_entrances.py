"""Which machines have an entrance."""

from __future__ import annotations

import pytest

from pdserver.cluster.entrances import Spot, chosen

HEAD = Spot("h", "10.0.0.1", is_head=True)
A, B = Spot("a", "10.0.0.2"), Spot("b", "10.0.0.3")
BESIDE = Spot("0", "10.0.0.1")


@pytest.mark.parametrize(
    ("spots", "having", "wanted", "expected"),
    [
        ((A, HEAD, B), (), 1, ["h"]),
        ((A, HEAD, B), (), 2, ["h", "a"]),
        ((A, HEAD, B), ("b",), 2, ["b", "h"]),
        ((A, HEAD), ("b",), 2, ["h", "a"]),
        ((BESIDE, A, HEAD), (), 2, ["h", "a"]),
        ((BESIDE, A, HEAD), (), None, ["h", "a"]),
        ((BESIDE, A, HEAD), ("0",), None, ["0", "a"]),
        ((A, B), (), 1, ["a"]),
    ],
    ids=[
        "the head first",
        "then others",
        "those that have one keep it",
        "one that is gone is replaced",
        "one at each address",
        "all",
        "all, where one is already",
        "without a head",
    ],
)
def test_where_they_are(spots: tuple[Spot, ...], having: tuple[str, ...], wanted: int, expected: list[str]) -> None:
    assert chosen(spots, having, wanted) == (expected, "")


def test_too_few_machines_are_told() -> None:
    nodes, problem = chosen((HEAD, BESIDE), (), 3)
    assert nodes == ["h"]
    assert problem == "1 of 3 are placed: no other machine has an address of its own"
