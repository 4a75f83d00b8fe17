"""What a handler learns from the context, and what it says through it."""

from __future__ import annotations

import pytest

import pdserver
from pdserver.types import Reply
from tests.handlers.conftest import Load
from tests.handlers.requests import answer, json, refusal, request


def run(load: Load, statements: str, count: int = 2) -> list[Reply]:
    source = (
        f"def handle(data, context):\n    if data is None: return\n    {statements}\n    return ['x'] * len(data)\n"
    )
    outcomes = load(None, source=source).run([json(1)] * count)
    return [outcome for outcome in outcomes if isinstance(outcome, Reply)] or pytest.fail(str(outcomes))


def test_the_model_and_the_server(load: Load) -> None:
    source = (
        "def handle(data, context):\n"
        "    return data and [[context.model_name, context.manifest['model']['handler'], context.model_yaml_config,\n"
        "                      context.system_properties]]\n"
    )
    name, handler, config, system = answer(load(None, source=source, config={"mine": 1}).run([json(1)])[0])
    assert handler.endswith(".py")
    assert config == {"mine": 1}
    assert system.pop("model_dir").endswith(name)
    assert system == {
        "gpu_id": None, "batch_size": 8, "server_name": "pdserver", "server_version": pdserver.__version__,
        "limit_max_image_pixels": True,
    }  # fmt: skip


def test_requests(load: Load) -> None:
    source = (
        "def handle(data, context):\n"
        "    return data and [\n"
        "        [context.request_ids, context.get_request_id(i), context.get_request_header(i, 'X-User'),\n"
        "         context.get_request_header(i, 'none'), context.get_all_request_header(i)]\n"
        "        for i in range(len(data))]\n"
    )
    one = request(id="a", headers={"x-user": "Zoë", "host": "h"}, path="extra/path")
    first, second = load(None, source=source).run([one, request(id="b")])
    ids = {"0": "a", "1": "b"}
    headers = {"x-user": "ZoÃ«", "host": "h", "url_path": "extra/path"}  # headers are Latin-1
    assert answer(first) == [ids, "a", "ZoÃ«", None, headers]
    assert answer(second) == [ids, "b", None, None, {"url_path": ""}]


def test_the_older_way_to_headers_and_status(load: Load) -> None:
    first, second = run(
        load,
        "one, two = context.request_processor;"
        "assert one.get_request_property('url_path') == '' and one.get_request_properties() == {'url_path': ''};"
        "two.report_status(201, 'Made'); two.add_response_property('X-A', '1');"
        "assert (two.get_response_status_code(), two.get_response_status_phrase()) == (201, 'Made');"
        "assert (one.get_response_status_code(), one.get_response_status_phrase()) == (200, None);"
        "assert two.get_response_headers() == {'X-A': '1'} and two.get_response_header('X-A') == '1'",
    )
    assert (first.status, first.headers) == (200, [])
    assert (second.status, second.reason, second.headers) == (201, "Made", [("X-A", "1")])


def test_the_headers_of_sequences_by_name(load: Load) -> None:
    source = (
        "def handle(data, context):\n"
        "    return data and [[context.get_request_header(0, context.header_key_sequence_id),\n"
        "        context.get_request_header(0, context.header_key_sequence_start), context.header_key_sequence_end]]\n"
    )
    headers = {"ts_request_sequence_id": "s", "ts_request_sequence_start": "s"}
    (outcome,) = load(None, source=source).run([request(headers=headers)])
    assert answer(outcome) == ["s", "s", "ts_request_sequence_end"]


def test_stopping_criteria_say_which_answers_are_the_last(load: Load) -> None:
    done, more = run(load, "context.stopping_criteria = [lambda answer: answer == 'x', lambda answer: False]")
    assert [dict(reply.headers)["ts_stream_next"] for reply in (done, more)] == ["false", "true"]


def test_status_headers_and_content_type_are_of_one_answer(load: Load) -> None:
    first, second = run(
        load,
        "context.set_response_status(201, 'Made', idx=1); context.set_response_header(1, 'X-A', '1');"
        "context.set_response_content_type(1, 'text/html');"
        "assert context.get_response_status(1) == (201, 'Made') and context.get_response_status(0) == (200, '');"
        "assert context.get_response_headers(1) == {'X-A': '1'} and context.get_response_headers(0) == {};"
        "assert context.get_response_content_type(1) == 'text/html' and context.get_response_content_type(0) is None",
    )
    assert first == Reply(b"x", "text/plain; charset=utf-8")
    assert second == Reply(b"x", "text/html", 201, "Made", [("X-A", "1")])


def test_nothing_of_it_is_left_for_the_next_batch(load: Load) -> None:
    source = (
        "def handle(data, context):\n"
        "    if data and data[0]['body']: context.set_all_response_status(418, 'Teapot')\n"
        "    return data and ['x'] * len(data)\n"
    )
    service = load(None, source=source)
    assert [o.status for o in service.run([json(True)] * 2) if isinstance(o, Reply)] == [418, 418]
    assert [o.status for o in service.run([json(False)] * 2) if isinstance(o, Reply)] == [200, 200]


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("context.set_response_header(1, 'x-a', 'a\\r\\nset-cookie: b')", 'the header "x-a"'),
        ("context.set_response_header(1, 'x-a', 'a\\0')", 'the header "x-a"'),
        ("context.set_response_header(1, 'x-a', '中')", 'the header "x-a"'),
        ("context.set_response_header(1, 'x-a', 5)", 'the header "x-a"'),
        ("context.set_response_header(1, 'x a', 'b')", "not a valid name"),
        ("context.set_response_header(1, 'x\\n', 'b')", "not a valid name"),
        ("context.set_response_header(1, 'Content-Length', '3')", "the server's to set"),
        ("context.set_response_header(1, 'transfer-encoding', 'chunked')", "the server's to set"),
        ("context.set_response_header(1, 'content-type', 'a\\nb')", "the content type"),
        ("context.set_response_status(199, idx=1)", "status 199: expected a number from 200 to 599"),
        ("context.set_response_status('200', idx=1)", "expected a number from 200 to 599"),
        ("context.set_response_status(200, 'a\\nb', idx=1)", "the reason phrase"),
    ],
)
def test_a_head_that_would_break_the_response_fails_that_item(load: Load, statement: str, message: str) -> None:
    source = f"def handle(data, context):\n    if data: {statement}\n    return data and ['x'] * len(data)\n"
    good, bad = load(None, source=source).run([json(1)] * 2)
    assert isinstance(good, Reply)
    assert refusal(bad).startswith("handler: the handler set ")
    assert message in refusal(bad)


def test_an_index_outside_the_batch(load: Load) -> None:
    source = "def handle(data, context):\n    if data: context.set_response_status(500, 'x', 1)\n    return data\n"
    assert "there is no request 1 in a batch of 1" in refusal(load(None, source=source).run([json(1)])[0])
