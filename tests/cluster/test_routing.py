"""What each node is told of who serves what."""

from __future__ import annotations

import pytest

from pdserver.cluster.base import Archive, CopyStatus, Need, NodeStatus, Wanted
from pdserver.cluster.needs import needs
from pdserver.cluster.routing import Facts, routes, superfluous
from pdserver.cluster.state import Extra, State
from pdserver.peers.base import Addresses, Route
from pdserver.types import ModelRef

READER = ModelRef("reader", "1.0")
PIPE = ModelRef("pipe", "1.0")
WHERE = Addresses("http://10.0.0.1:8080", "", "", "")


def node(name: str, *copies: CopyStatus) -> NodeStatus:
    return NodeStatus(node=name, host=name, addresses=WHERE, version="", revision=1, copies=copies)


def test_what_a_node_says_of_a_copy_is_in_the_route() -> None:
    wanted = Wanted(ref=READER, url="reader.pdar", archive=Archive("0" * 64, "reader.pdar", 1), copies=2, default=True)
    state = State((wanted,), {"b": (READER,), "a": (READER,)})
    copy = CopyStatus(READER, ready=True, sequences=True, contract="paddlex/ocr")
    facts = Facts({"a": node("a", CopyStatus(READER, ready=True)), "b": node("b", copy)})
    assert routes(state, facts, {}) == (Route(READER, ("a", "b"), True, True, "paddlex/ocr"),)


@pytest.mark.parametrize("placed", [{"a": (READER, PIPE)}, {}])
def test_what_makes_way_for_a_new_archive_is_asked_no_more(placed: dict[str, tuple[ModelRef, ...]]) -> None:
    """On `b`, a copy of a pipeline asks the archive before. It ends once nobody asks it, and then the new one comes."""
    old = Wanted(ref=READER, url="old.pdar", archive=Archive("0" * 64, "old.pdar", 1), default=True)
    new = Wanted(ref=READER, url="new.pdar", archive=Archive("1" * 64, "new.pdar", 1), default=True)
    pipe = Wanted(
        ref=PIPE, url="pipe.pdar", archive=Archive("2" * 64, "pipe.pdar", 1), copies=2, default=True,
        needs=(Need("reader"),),
    )  # fmt: skip
    state = State((new, pipe), placed, (Extra("b", old), Extra("b", pipe)))
    there = (CopyStatus(READER, ready=True), CopyStatus(PIPE, ready=True))
    facts = Facts({"a": node("a", *there), "b": node("b", *there)})
    assert superfluous(state, facts, needs(state)) == {("b", PIPE)}
    assert [route.nodes for route in routes(state, facts, needs(state))] == [tuple(placed), tuple(placed)]
