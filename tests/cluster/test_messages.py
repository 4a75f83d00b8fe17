"""What processes of different versions send each other."""

from __future__ import annotations

import pickle
from collections.abc import Mapping

import msgspec
import pytest

from pdserver import __version__
from pdserver.cluster import base
from pdserver.cluster.base import Archive, EntranceView, NodeStatus, Placed, Target, Wanted
from pdserver.cluster.messages import Message
from pdserver.cluster.options import ClusterOptions
from pdserver.errors import Unavailable
from pdserver.peers.base import Addresses, Peers, Route
from pdserver.types import ModelRef

WHERE = Addresses("http://10.0.0.1:8080", "http://10.0.0.1:8081", "http://10.0.0.1:8082", "10.0.0.1:7070")
FIT = ModelRef("fit", "1")
ARCHIVE = Archive("0" * 64, "fit.pdar", 7)
ROUTES = (Route(FIT, ("a",), True),)
MESSAGES = (
    ARCHIVE,
    Wanted(ref=FIT, url="fit.pdar", archive=ARCHIVE, settings={"batch_size": "2"}, workers=3),
    Target(5, (Placed(ref=FIT, archive=ARCHIVE),), Peers("a", {"a": WHERE}, ROUTES), frozenset([ARCHIVE.sha256])),
    NodeStatus(node="a", host="a", addresses=WHERE, version="1", revision=5, copies=(base.CopyStatus(FIT, True),)),
    EntranceView({"a": WHERE}, frozenset("a"), ROUTES, "a:8081"),
    base.ClusterView(5, "1", (), (base.NodeView("a", None),), ROUTES),
    ClusterOptions(cluster="a", state="/s", directory="/", settings={"a": "b"}, environment={}),
)


def with_later_fields(message: object) -> object:
    """Its content; all structs have one field more, as what a later version has written."""
    if isinstance(message, msgspec.Struct):
        fields = {name: getattr(message, name) for name in message.__struct_fields__}
        return {name: with_later_fields(value) for name, value in fields.items()} | {"later": "later"}
    if isinstance(message, Mapping):
        return {key: with_later_fields(value) for key, value in message.items()}
    return [with_later_fields(each) for each in message] if isinstance(message, tuple | frozenset) else message


def sent(message: Message, content: object) -> object:
    """What a process of this version reads when one of version 9 has written this content."""
    read, (kind, _, _) = message.__reduce__()
    return read(kind, "9.0", msgspec.msgpack.encode(content))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_arrives_as_it_was(message: Message) -> None:
    assert pickle.loads(pickle.dumps(message)) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_fields_of_a_later_version_are_dropped(message: Message) -> None:
    assert sent(message, with_later_fields(message)) == message


def test_fields_that_an_earlier_version_lacks_have_their_defaults() -> None:
    status = MESSAGES[3]
    said = msgspec.msgpack.decode(msgspec.msgpack.encode(status))
    for name in ("copies", "gpus", "problem"):
        del said[name]
    assert sent(status, said) == msgspec.structs.replace(status, copies=())


def test_what_can_not_be_read_is_told_in_a_sentence() -> None:
    with pytest.raises(Unavailable) as refused:
        sent(MESSAGES[3], {"node": "a"})
    assert str(refused.value) == (
        f"pdserver {__version__} can't read a message of pdserver 9.0 (NodeStatus: Object missing required field"
        " `host`): install one version on all machines, then: pdserver cluster upgrade"
    )
