"""What each node is told of who serves what."""

from __future__ import annotations

from pdserver.cluster.base import Archive, CopyStatus, NodeStatus, Wanted
from pdserver.cluster.routing import Facts, routes
from pdserver.cluster.state import State
from pdserver.peers.base import Addresses, Route
from pdserver.types import ModelRef

READER = ModelRef("reader", "1.0")
WHERE = Addresses("http://10.0.0.1:8080", "", "", "")


def node(name: str, copy: CopyStatus) -> NodeStatus:
    return NodeStatus(node=name, host=name, addresses=WHERE, version="", revision=1, copies=(copy,))


def test_what_a_node_says_of_a_copy_is_in_the_route() -> None:
    wanted = Wanted(ref=READER, url="reader.pdar", archive=Archive("0" * 64, "reader.pdar", 1), copies=2, default=True)
    state = State((wanted,), {"b": (READER,), "a": (READER,)})
    copy = CopyStatus(READER, ready=True, sequences=True, contract="paddlex/ocr")
    facts = Facts({"a": node("a", CopyStatus(READER, ready=True)), "b": node("b", copy)})
    assert routes(state, facts) == (Route(READER, ("a", "b"), True, True, "paddlex/ocr"),)
