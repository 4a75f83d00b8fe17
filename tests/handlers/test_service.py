"""Whatever a handler does, each request gets its outcome and the worker lives on."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from pdserver.errors import Kind, LoadFailed
from pdserver.types import Failure, Part, Reply
from tests.handlers.conftest import Load
from tests.handlers.requests import JSON, answer, body, json, refusal, request, tensor


def test_values_arrive_by_name_decoded_by_content_type(load: Load) -> None:
    service = load(None, source="def handle(data, context): return [repr(row) for row in data or []]")
    array = np.arange(3, dtype=np.int16)
    rows = service.run(
        [
            request(
                Part("a", "application/vnd.x+json; v=1", b"[1]"), Part("b", "text/plain; charset=latin-1", b"\xe9")
            ),
            request(Part("raw", "image/png", b"\x89"), Part("unsaid", "", b' {"k": 1}'), Part("odd", "", b"{odd")),
            request(tensor("t", array)),
        ]
    )
    assert [row.body.decode() for row in rows if isinstance(row, Reply)] == [
        "{'a': [1], 'b': 'é'}",
        "{'raw': bytearray(b'\\x89'), 'unsaid': bytearray(b' {\"k\": 1}'), 'odd': bytearray(b'{odd')}",
        "{'t': array([0, 1, 2], dtype=int16)}",
    ]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Part("body", JSON, b'{"a": nope}'), "the body is not valid JSON: invalid literal, expected 'null' at line 1"),
        (Part("meta", JSON, b""), 'the part "meta" is not valid JSON'),
        (Part("body", "text/plain", b"\xff"), "the body is not text"),
        (Part("body", "text/plain; charset=klingon", b"x"), "the charset klingon is not known here"),
    ],
)
def test_what_cannot_be_decoded_fails_alone_and_is_never_seen(load: Load, bad: Part, message: str) -> None:
    source = (
        "def handle(data, context):\n"
        "    if data is None: return\n"
        "    context.set_response_header(1, 'x-id', context.get_request_id(1))\n"
        "    return [len(data)] * len(data)\n"
    )
    good = Part("body", JSON, b"1")
    first, failed, second = load(None, source=source).run([request(good), request(bad), request(good, id="two")])
    assert refusal(failed).startswith("invalid: ")
    assert message in refusal(failed)
    assert answer(first) == 2
    assert isinstance(second, Reply)
    assert second.headers == [("x-id", "two")]


def test_a_tensor_whose_bytes_do_not_fit_its_shape_fails_alone(load: Load) -> None:
    wrong = tensor("x", np.zeros(2, np.float32))
    service = load(None, source="def handle(data, context): return data and [1]")
    outcomes = service.run([json(1), request(type(wrong)("x", "float32", (3,), wrong.data))])
    assert answer(outcomes[0]) == 1
    assert refusal(outcomes[1]) == 'invalid: input "x": 8 bytes are not float32 of shape [3]'


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("raise ValueError('no good')", "handler: ValueError: no good"),
        ("raise KeyError", "handler: KeyError"),
        ("import sys; sys.exit(3)", "handler: SystemExit: 3"),
        ("raise KeyboardInterrupt", "handler: KeyboardInterrupt"),
        ("raise GeneratorExit", "handler: GeneratorExit"),
        ("handle(data, context)", "handler: RecursionError: maximum recursion depth exceeded"),
        ("raise MemoryError('no room')", "out_of_memory: MemoryError: no room"),
        ("return data[1:]", "handler: handler returned {less} answers for a batch of {count}"),
        ("return {}", "handler: handler returned dict, not a list of answers, for a batch of {count}"),
        ("return None", "handler: handler returned NoneType, not a list of answers, for a batch of {count}"),
        ("from pdserver.errors import InvalidRequest; raise InvalidRequest('no')", "invalid: no"),
    ],
)
def test_who_breaks_a_batch_fails_alone_and_the_next_one_runs(load: Load, statement: str, expected: str) -> None:
    source = (
        "def handle(data, context):\n"
        "    if not data or data[0]['body'] != 'break': return data and data[:]\n"
        f"    {statement}\n"
    )
    service = load(None, source=source)
    bad, good = service.run([json("break"), json(1)])
    assert refusal(bad).startswith(expected.format(less=0, count=1))
    assert answer(good) == {"body": 1}
    assert [answer(outcome) for outcome in service.run([json(1), json(2)])] == [{"body": 1}, {"body": 2}]
    together = load(None, source=source, isolate_failures=False).run([json("break"), json(1)])
    assert len(together) == 2
    assert all(refusal(failure).startswith(expected.format(less=1, count=2)) for failure in together)


def test_the_traceback_goes_to_the_log(load: Load, capfd: pytest.CaptureFixture[str]) -> None:
    load(None, source="def handle(data, context): return data and [1 / 0]").run([json(1)])
    log = capfd.readouterr().err
    assert "Traceback" in log
    assert "ZeroDivisionError: division by zero" in log


def test_an_error_that_repeats_what_a_client_sent_is_cut_in_the_log(
    load: Load, capfd: pytest.CaptureFixture[str]
) -> None:
    for error in ("float(data[0]['body'])", "raised(data[0]['body'])"):
        source = (
            "def raised(text):\n"
            "    try: raise KeyError(text)\n"
            "    except KeyError: raise ValueError(text)\n"
            f"def handle(data, context): return data and [{error}]\n"
        )
        [failed] = load(None, source=source).run([json("x" * 1_000_000)])
        assert len(refusal(failed)) < 3000
        log = capfd.readouterr().err
        assert "Traceback" in log
        assert "ValueError: " in log
        assert len(log) < 20_000, f"{len(log):,} characters"


def test_prediction_exception_fails_a_request_with_its_status(load: Load) -> None:
    source = (
        "from pdserver.handlers.base import PredictionException\n"
        "def handle(data, context):\n"
        "    if data: raise PredictionException('too dark', data[0]['body'])\n"
    )
    service = load(None, source=source)
    assert service.run([json(422), json(400)]) == [Failure(Kind.HANDLER, "too dark", s) for s in (422, 400)]
    assert service.run([json(99)]) == [Failure(Kind.HANDLER, "too dark", 500)]


def test_one_item_fails_by_an_exception_in_its_place(load: Load) -> None:
    source = (
        "from pdserver.errors import InvalidRequest\n"
        "from pdserver.handlers.base import PredictionException\n"
        "def handle(data, context):\n"
        "    return data and [1, InvalidRequest('bad'), OSError('disk'), PredictionException('gone', 410), 5]\n"
    )
    outcomes = load(None, source=source).run([json(0)] * 5)
    assert [answer(outcomes[0]), answer(outcomes[4])] == [1, 5]
    assert outcomes[1:4] == [
        Failure(Kind.INVALID, "bad"),
        Failure(Kind.HANDLER, "OSError: disk"),
        Failure(Kind.HANDLER, "gone", 410),
    ]


def test_one_item_fails_by_its_status(load: Load) -> None:
    source = (
        "def handle(data, context):\n"
        "    if data: context.set_response_status(507, 'Full', 1)\n"
        "    return data and ['a', 'b']\n"
    )
    outcomes = load(None, source=source).run([json(0)] * 2)
    assert [(o.status, o.reason, o.body) for o in outcomes if isinstance(o, Reply)] == [
        (200, "", b"a"),
        (507, "Full", b"b"),
    ]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import nowhere_to_be_found\ndef handle(d, c): pass", "ModuleNotFoundError: No module named"),
        ("def handle(d, c): raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("import sys\ndef handle(d, c): sys.exit('bye')", "SystemExit: bye"),
        ("class A:\n def initialize(self, c): {}['x']\n def handle(self, d, c): pass", "KeyError: 'x'"),
        ("class A:\n def __init__(self): raise KeyboardInterrupt\n def handle(self, d, c): pass", "KeyboardInterrupt"),
    ],
)
def test_loading_fails_with_type_and_message(
    load: Load, capfd: pytest.CaptureFixture[str], source: str, message: str
) -> None:
    with pytest.raises(LoadFailed, match=message):
        load(None, source=source)
    assert "Traceback" in capfd.readouterr().err


def test_an_archive_hides_nothing_of_the_standard_library(load: Load) -> None:
    source = (
        "import wave, helper_beside_it\ndef handle(data, context): return data and [wave.__file__, helper_beside_it.X]"
    )
    service = load(None, source=source, files={"wave.py": b"raise 1", "helper_beside_it.py": b"X = 7"})
    file, helper = service.run([json(0)] * 2)
    assert isinstance(file, Reply)
    assert file.body.decode().startswith(sys.base_prefix)
    assert answer(helper) == 7


def test_files_of_a_model_without_code_are_never_imported(load: Load) -> None:
    before = list(sys.path)
    load("pir/linear.json", files={"optional_package.py": b"raise SystemExit"})
    assert [folder for folder in sys.path if folder not in before and "ts_compat" not in folder] == []


def test_nothing_to_do(load: Load) -> None:
    service = load(None, source="def handle(data, context): return data and [1 / 0]")
    assert service.run([]) == []
    assert [refusal(o)[:7] for o in service.run([body(b"[", JSON)])] == ["invalid"]
