"""What is not JSON, and what is more than JSON should be, wherever JSON is read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdserver.formats import strict_json
from pdserver.formats.strict_json import InvalidJson
from tests.security import documents
from tests.security.victim import Victim

JSON = {"Content-Type": "application/json"}
REFUSED = dict(documents.refused())
ACCEPTED = dict(documents.accepted())


def expected(document: bytes) -> Any:
    """As Python reads it; whole numbers of more than 64 bits are what most of the world reads them as."""
    return json.loads(document, parse_int=lambda text: int(text) if -(2**63) <= int(text) < 2**64 else float(text))


SOME = pytest.mark.parametrize("name", list(REFUSED)[:: len(REFUSED) // 20])
"""Through each entrance; which texts are JSON is the parser's rule alone."""


def test_the_parser_refuses_it() -> None:
    read = [name for name, document in REFUSED.items() if _is_read(document)]
    assert not read


def _is_read(document: bytes) -> bool:
    try:
        strict_json.loads(document)
    except InvalidJson:
        return False
    return True


@SOME
def test_a_body(victim: Victim, name: str) -> None:
    victim.refuses(400, "the body is not valid JSON: ", "POST", "/predictions/parts", REFUSED[name], JSON)


@SOME
def test_in_an_envelope(victim: Victim, name: str) -> None:
    victim.refuses(400, "the body is not valid JSON: ", "POST", "/v1/models/wrapped:predict", REFUSED[name], JSON)


@SOME
def test_for_tensors(victim: Victim, name: str) -> None:
    """Some of it is JSON to TensorFlow Serving, and no request all the same."""
    for verb in ("predict", "classify", "regress"):
        victim.refuses(400, "", "POST", f"/v1/models/fit:{verb}", REFUSED[name], JSON)


@SOME
def test_parameters(victim: Victim, name: str) -> None:
    victim.refuses(400, "the body is not JSON: ", "POST", "/models", REFUSED[name], JSON, port="management")


def test_the_parser_reads_what_is_odd_and_right() -> None:
    assert {name: strict_json.loads(document) for name, document in ACCEPTED.items()} == {
        name: expected(document) for name, document in ACCEPTED.items()
    }


@pytest.mark.parametrize("name", list(ACCEPTED)[:: max(1, len(ACCEPTED) // 20)])
def test_odd_and_right(victim: Victim, name: str) -> None:
    answer = victim.ask("POST", "/predictions/parts", ACCEPTED[name], JSON)
    assert answer.status == 200, answer.body
    assert json.loads(answer.body)["body"][1] == expected(ACCEPTED[name])


def test_there_are_enough_of_them() -> None:
    assert len(REFUSED) > 300


def test_where_it_is_said(victim: Victim) -> None:
    body = b'{"x": [1,\n 2,, 3]}'
    victim.refuses(400, "at line 2, column 4", "POST", "/predictions/fit", body, JSON)
    victim.refuses(400, 'the key "x" is given twice', "POST", "/predictions/fit", b'{"x": 1, "x": 2}', JSON)
    victim.refuses(400, "more than 100 deep", "POST", "/predictions/fit", b"[" * 101 + b"]" * 101, JSON)
    # Of no stated type it is taken for what it looks like, and the reason is said all the same.
    victim.refuses(400, "what begins like JSON and is not: ", "POST", "/predictions/fit", body)
    victim.refuses(400, 'the key "x" is given twice', "POST", "/predictions/fit", b'{"x": 1, "x": 2}')


Json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=40,
)  # fmt: skip


@settings(max_examples=50)
@given(Json)
def test_what_is_right_is_read_as_it_is(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        assert strict_json.loads(text.encode()) == value
        assert strict_json.loads(memoryview(text.encode())) == value


@settings(max_examples=50)
@given(st.lists(st.tuples(st.text(':"[{a', max_size=3), Json), max_size=6), Json)
def test_equal_keys_are_found_wherever_they_are(pairs: list[tuple[str, Any]], other: Any) -> None:
    written = ", ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in pairs)
    document = f"[{json.dumps(other)}, {{{written}}}]".encode()
    if len({key for key, _ in pairs}) == len(pairs):
        assert strict_json.loads(document) == [other, dict(pairs)]
    else:
        with pytest.raises(InvalidJson, match="is given twice"):
            strict_json.loads(document)


@given(st.binary(max_size=60) | st.text('{}[]:,"\\ud8019.eE+-ntrfalsu ', max_size=60).map(str.encode))
def test_any_bytes_are_a_value_or_refused(data: bytes) -> None:
    try:
        value = strict_json.loads(data)
    except InvalidJson:
        return
    assert value == expected(data)
