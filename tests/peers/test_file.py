"""The file of peers: what can't be used is refused, and what changes takes effect."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests

from pdserver.configuration.server import Config
from pdserver.engine.catalogue import Catalogue
from pdserver.errors import ConfigError, Missing, ModelNotFound
from pdserver.peers.base import Addresses, Peers, Route
from pdserver.peers.file import read
from pdserver.peers.table import Table
from pdserver.server.reports import problems
from tests.peers.nodes import Node, route
from tests.running import eventually

A, B, C = (Addresses(f"http://10.0.0.{number}:8080", "", "", f"10.0.0.{number}:7070") for number in (1, 2, 3))
NODES = {"a": A, "b": B, "c": C}


def written(path: Path, *routes: Route, node: str = "a") -> Path:
    path.write_bytes(msgspec.json.encode(Peers(node, NODES, routes)))
    path.chmod(0o600)
    return path


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as error:
        read(path)
    return str(error.value)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    peers = read(written(tmp_path / "peers.json", route("m", "b", "c", sequences=True)))
    assert peers == Peers("a", NODES, (route("m", "b", "c", sequences=True),))


def test_the_documented_file_is_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "peers.md").read_text()
    [text] = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    table = Table(msgspec.json.decode(text, type=Peers))
    assert table.ways(Missing("ocr")).nodes == ("b",)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path / "peers.json")
    path.chmod(mode)
    assert f"chmod go-w {path}" in refused(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "peers.json")
    os.chown(path, 12345, -1)
    assert "uid 12345" in refused(path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Input data was truncated"),
        ("{", "truncated"),
        ("[]", "Expected `object`, got `array`"),
        ('{"node": "a", "nodes": {}}', "missing required field `routes`"),
        ('{"node": "a b", "nodes": {}, "routes": []}', "node: a b: expected a name"),
        ('{"node": "a\\r\\nx: y", "nodes": {}, "routes": []}', "expected a name"),
        ('{"node": "a", "nodes": {"b": {"inference": 1}}, "routes": []}', "Expected `str`, got `int`"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "peers.json"
    path.write_text(text)
    assert why in refused(path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda file: file.update(route=[]), "unknown key route; did you mean routes?"),
        (lambda file: file.update(noddes=file.pop("nodes")), "unknown key noddes; did you mean nodes?"),
        (lambda file: file["nodes"]["b"].update(gprc=""), "nodes: b: unknown key gprc; did you mean grpc?"),
        (
            lambda file: file["routes"][1].update(sequence=True),
            "routes[1]: unknown key sequence; did you mean sequences?",
        ),
        (
            lambda file: file["routes"][0]["ref"].update(x=1),
            "routes[0]: ref: unknown key x: expected what docs/peers.md",
        ),
    ],
    ids=["file", "instead of another", "node", "route", "version"],
)
def test_an_unknown_key_is_refused(tmp_path: Path, change: Callable[[Any], object], why: str) -> None:
    path = written(tmp_path / "peers.json", route("m", "b"), route("n", "c"))
    file = msgspec.json.decode(path.read_bytes())
    change(file)
    path.write_bytes(msgspec.json.encode(file))
    assert why in refused(path)


def test_a_node_that_nobody_can_find_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(written(tmp_path / "peers.json", route("m", "b", "cc"), route("n", "a", "cc")))
    [line] = caplog.messages
    assert line.endswith("peers.json: routes: cc is not among nodes; did you mean c?: it is asked nothing")


@pytest.mark.parametrize("url", ["10.0.0.1:8080", "ftp://x:1", "http://", "http://x:port", "http://x:99999", ""])
def test_addresses_are_urls(tmp_path: Path, url: str) -> None:
    path = tmp_path / "peers.json"
    path.write_bytes(msgspec.json.encode(Peers("a", {"b": Addresses(url, "", "", "")}, ())))
    assert "expected a URL such as http://10.0.0.2:8080" in refused(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "peers.json")
    assert "expected a file" in refused(tmp_path)


@pytest.mark.parametrize(
    ("missing", "nodes"),
    [
        (Missing("m"), ("b", "c")),
        (Missing("m", "2.0"), ("b", "c")),
        (Missing("m", "2"), ("b", "c")),
        (Missing("m", "2.0.0"), ("b", "c")),
        (Missing("m", "1.0"), ("c",)),
        (Missing("m", "20"), ()),
        (Missing("m", "two"), ()),
        (Missing("one"), ()),
        (Missing("own"), ()),
        (Missing("n"), ()),
        (Missing("", None, "paddlex/ocr"), ("c",)),
        (Missing("", None, "paddlex/seal"), ()),
    ],
    ids=str,
)
def test_who_serves_what(missing: Missing, nodes: tuple[str, ...]) -> None:
    table = Table(
        Peers(
            "a",
            NODES,
            (
                route("m", "a", "c", version="1.0", default=False),
                route("m", "b", "c", "unknown", version="2.0"),
                route("one", "b", version="1.0", default=False),
                route("own", "a"),
                route("reader", "a", contract="paddlex/ocr"),
                route("other_reader", "c", contract="paddlex/ocr"),
            ),
        )
    )
    assert table.ways(missing).nodes == nodes
    assert table.defaults == {"m": "2.0", "other_reader": "1.0"}


def test_a_new_file_takes_effect_under_load(nodes: dict[str, Node]) -> None:
    """The model moves between b and c, and no request fails."""
    a = nodes["a"]
    before = a.said
    stop, failed, count = threading.Event(), [], [0]

    def ask() -> None:
        with requests.Session() as session:
            while not stop.is_set():
                answer = session.post(a.server.inference + "/predictions/mirror", data=b"abc", timeout=60)
                count[0] += 1
                if answer.content != b"cba":
                    failed.append(answer.text)

    clients = [threading.Thread(target=ask) for _ in range(3)]
    for client in clients:
        client.start()
    try:
        for name in ("b", "c", "b"):
            others = [each for each in before.routes if each.ref.name != "mirror"]
            addresses = {each: where for each, where in before.nodes.items() if each not in ({"b", "c"} - {name})}
            a.tell(addresses, [*others, route("mirror", name)])
            told = a.forwarded(name, "answered")
            eventually(lambda: a.forwarded(name, "answered") > told + 10)  # noqa: B023 - it is called here
    finally:
        stop.set()
        for client in clients:
            client.join()
        a.tell(before.nodes, before.routes)
    assert not failed
    assert count[0] > 30


@pytest.mark.parametrize(
    "spoil",
    [lambda path: path.write_text("{"), lambda path: path.chmod(0o666), lambda path: path.unlink()],
    ids=["broken", "writable", "removed"],
)
def test_a_file_that_can_not_be_used_changes_nothing(nodes: dict[str, Node], spoil: Callable[[Path], object]) -> None:
    a = nodes["a"]
    before = a.said
    times = a.server.log().count("what it said before stays in force")
    spoil(a.file)
    eventually(lambda: a.server.log().count("what it said before stays in force") == times + 1)
    assert requests.post(a.server.inference + "/predictions/mirror", data=b"abc", timeout=60).content == b"cba"
    a.tell(before.nodes, before.routes)


def test_a_pipeline_says_where_its_models_are() -> None:
    """It asks those of its own server."""
    catalogue = Catalogue()
    catalogue.elsewhere.nodes = lambda missing: ("b", "c") if missing == Missing("step", "1.0") else ()
    with pytest.raises(ModelNotFound, match="Model not found: step; it is on b, c, but a pipeline asks"):
        catalogue.resolve("step", "1.0", "pipeline")
    with pytest.raises(ModelNotFound, match=r"Model not found: step$"):
        catalogue.resolve("step", "1.0")


def test_a_check_of_the_configuration_finds_it(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    path.write_text("{}")
    found = list(problems(Config(model_store=tmp_path, peers_file=path)))
    assert [each for each in found if each.startswith(f"peers_file={path}: Object missing required field")]
