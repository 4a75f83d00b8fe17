"""H: handlers that raise, answer nonsense, print, or break what is around them."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import requests

from tests.catalogue.ward import Ward
from tests.running import eventually


@pytest.mark.catalogue("H1")
def test_one_item_fails_alone(ward: Ward) -> None:
    answers = ward.together("batch", {"op": "fail_item"}, *({} for _ in range(7)))
    assert [answer.status_code for answer in answers] == [500] + [200] * 7


@pytest.mark.catalogue("H2")
def test_a_handler_that_raises_for_a_request_fails_that_one_alone(ward: Ward) -> None:
    answers = ward.together("batch", {"op": "fail"}, *({} for _ in range(7)))
    assert [answer.status_code for answer in answers] == [500] + [200] * 7
    assert answers[0].json()["message"] == 'KeyError: "the handler\'s own fault"'
    assert ward.ask_for_a_batch("batch") == 200


@pytest.mark.catalogue("H3")
def test_answers_that_do_not_fit_are_nobodys(ward: Ward) -> None:
    before = ward.pids("two")
    for whole in ("one less", "one more", "none", "nothing", "text", "generator", "dict"):
        answer = ward.ask("two", whole=whole)
        assert answer.status_code == 500
        assert "handler returned" in answer.json()["message"]
    assert ward.pids("two") == before


@pytest.mark.catalogue("H4")
def test_an_answer_that_cannot_be_written_fails_alone(ward: Ward) -> None:
    for what in (
        *("object", "function", "circular", "set", "large number"),
        *("surrogate", "surrogate in JSON", "bytes in JSON"),
    ):
        answer = ward.ask("two", "answer", what=what)
        assert (answer.status_code, answer.json()["type"]) == (500, "InternalServerException")
    assert ward.ask("two", "answer", what="not a number").json() == {"x": None}


@pytest.mark.catalogue("H5", "H6")
def test_large_answers(ward: Ward) -> None:
    assert len(ward.ask("two", "answer", what="large").content) == 32 << 20
    assert len(ward.ask("two", "answer", what="many").json()) == 100_000


@pytest.mark.catalogue("H7")
def test_a_handler_prints_without_end(ward: Ward) -> None:
    before = ward.server.log_file.stat().st_size
    assert ward.ask("two", "flood").status_code == 200
    ward.server.logged("lines left out: 1000 a second are logged")
    written = ward.server.log()[before:]
    assert max(len(line) for line in written.splitlines()) < 50_000
    assert "\x1b" not in written
    assert "\x00" not in written


@pytest.mark.catalogue("H8")
def test_what_a_handler_prints_means_nothing(ward: Ward) -> None:
    assert ward.ask("once", "imitate").status_code == 200
    ward.server.logged("[METRICS]Forged.Count:1")
    assert "Forged" not in requests.get(f"{ward.server.metrics}/metrics", timeout=60).text


@pytest.mark.catalogue("H9", "H10", "H20")
@pytest.mark.parametrize("op", ["close_standard", "close_range", "dup_over", "close_random", "garbage"])
def test_a_handler_breaks_its_descriptors(ward: Ward, op: str, mark: str) -> None:
    assert ward.ask("two", op, mark=mark).status_code == 200
    for _ in range(4):
        assert ward.ask("two").status_code == 200


@pytest.mark.catalogue("H10")
def test_garbage_on_the_channel_is_recognised(ward: Ward) -> None:
    answer = ward.ask("two", "garbage")
    assert answer.status_code == 500
    assert "broke the protocol: what was written is not a message" in answer.json()["message"]


@pytest.mark.catalogue("H11")
def test_a_handler_forks_and_both_return(ward: Ward) -> None:
    for _ in range(2):
        assert ward.ask("one", "fork").status_code == 200
        assert ward.ask("one").status_code == 200
    for pid in ward.pids("one"):  # whose zombies it keeps, since nobody there waits for them
        os.kill(pid, signal.SIGKILL)


@pytest.mark.catalogue("H23")
def test_a_handler_changes_its_batch(ward: Ward) -> None:
    before = ward.pids("batch")
    answers = ward.together("batch", {"op": "change_batch"}, *({} for _ in range(7)))
    assert [answer.status_code for answer in answers] == [200] * 8
    answers = ward.together("batch", {"op": "change_batch", "then": "raise"}, *({} for _ in range(7)))
    assert [answer.status_code for answer in answers] == [500] + [200] * 7
    assert ward.pids("batch") == before


@pytest.mark.catalogue("H13", "H14")
@pytest.mark.parametrize("op", ["change_process", "patch_modules"])
def test_a_handler_changes_what_is_around_it(ward: Ward, op: str) -> None:
    for _ in range(2):
        assert ward.ask("one", op).status_code == 200
        assert ward.ask("one").status_code == 200
    changed = ward.pids("one")
    for pid in changed:  # the next test is to find another one
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: changed.isdisjoint(ward.pids("one")))


BREAKING: list[tuple[str, dict[str, Any]]] = [
    ("header", {"name": "x-a", "value": "a\r\nset-cookie: b=c"}),
    ("header", {"name": "x a", "value": "b"}),
    ("header", {"name": "Content-Length", "value": "5"}),
    ("header", {"name": "Transfer-Encoding", "value": "chunked"}),
    ("header", {"name": "Connection", "value": "close"}),
    ("status", {"status": 99}),
    ("status", {"status": 1000}),
    ("status", {"status": "200 OK"}),
    ("status", {"status": 101}),
    ("status", {"status": 200, "reason": "a\r\nb: c"}),
    ("content_type", {"value": "text/plain\r\nx: y"}),
    ("content_type", {"value": "text/\u4e2d"}),
]


@pytest.mark.catalogue("H15", "H16")
def test_a_handler_sets_what_would_break_the_answers_head(ward: Ward) -> None:
    for op, fields in BREAKING:
        answer = ward.ask("two", op, **fields)
        assert answer.status_code == 500
        assert "set-cookie" not in answer.headers
        assert answer.json()["message"].startswith("the handler set")


@pytest.mark.catalogue("H17")
def test_a_handler_takes_longer_than_its_client_waits(ward: Ward) -> None:
    before = ward.pids("one")
    answer = ward.ask("one", "sleep", seconds=1.0, headers={"x-request-timeout-ms": "300"})
    assert (answer.status_code, "deadline" in answer.json()["message"]) == (504, True)
    assert ward.ask("one").status_code == 200
    assert ward.pids("one") == before, "the worker has done nothing wrong"


@pytest.mark.catalogue("H18")
def test_a_stream_that_fails_is_not_complete(ward: Ward) -> None:
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        ward.ask("two", "stream", then="raise")


@pytest.mark.catalogue("H19")
def test_a_stream_without_end_ends_with_the_response_timeout(ward: Ward) -> None:
    with requests.post(
        f"{ward.server.inference}/predictions/brief", json={"op": "stream", "then": "go on"}, stream=True, timeout=60
    ) as answer:
        assert next(answer.iter_content(2)) == b"0 "
    eventually(lambda: ward.server.log().count("did not answer within 1 s") > 0)


@pytest.mark.catalogue("H21")
def test_a_handler_asks_its_own_server(ward: Ward) -> None:
    other = f"{ward.server.inference}/predictions/two"
    assert ward.ask("one", "ask_itself", url=other).status_code == 200
    itself = f"{ward.server.inference}/predictions/one"
    answer = ward.ask("one", "ask_itself", url=itself, headers={"x-request-timeout-ms": "500"})
    assert answer.status_code == 504
    for pid in ward.pids("one"):  # it would wait for itself until the responseTimeout
        os.kill(pid, signal.SIGKILL)
