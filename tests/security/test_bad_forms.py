"""Forms, content types and texts that are not what they say they are."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdserver.dialects.torchserve.forms import is_form, parse_form
from pdserver.dialects.torchserve.multipart import parse_multipart
from pdserver.errors import InvalidRequest
from pdserver.handlers.runtime.parts import decode
from pdserver.types import Part
from tests.security.documents import words
from tests.security.victim import Victim

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
MULTIPART = "multipart/form-data; boundary=b"


def part(head: str = 'Content-Disposition: form-data; name="data"', data: bytes = b"1") -> bytes:
    return b"--b\r\n" + head.encode("utf-8", "surrogateescape") + b"\r\n\r\n" + data + b"\r\n"


END = b"--b--\r\n"
NAMED = 'Content-Disposition: form-data; name="data"'
MULTIPARTS: list[tuple[str, str, bytes, str]] = [
    ("no boundary", "multipart/form-data", part() + END, "without a boundary"),
    ("an empty boundary", 'multipart/form-data; boundary=""', part() + END, "without a boundary"),
    ("a boundary of 300", "multipart/form-data; boundary=" + "b" * 300, part() + END, "malformed"),
    ("another boundary", "multipart/form-data; boundary=c", part() + END, "malformed"),
    ("in capitals", "Multipart/Form-Data; boundary=c", part() + END, "malformed"),
    ("nothing", MULTIPART, b"", "cut short"),
    ("a preamble", MULTIPART, b"hello\r\n" + part() + END, "malformed"),
    ("no end", MULTIPART, part(), "cut short"),
    ("half an end", MULTIPART, part() + b"--b-", "cut short"),
    ("an end alone that is none", MULTIPART, b"--b-\r\n", "malformed"),
    ("ends in a header", MULTIPART, b"--b\r\nContent-Disp", "cut short"),
    ("ends in data", MULTIPART, part()[:-3], "cut short"),
    ("no blank line", MULTIPART, b"--b\r\n" + NAMED.encode() + b"\r\n1\r\n" + END, "malformed"),
    ("bare line feeds", MULTIPART, (part() + END).replace(b"\r\n", b"\n"), "malformed"),
    ("no name", MULTIPART, part("Content-Disposition: form-data") + END, "no name"),
    ("an empty name", MULTIPART, part('Content-Disposition: form-data; name=""') + END, "no name"),
    ("no disposition", MULTIPART, part("Content-Type: text/plain") + END, "no name"),
    ("no header at all", MULTIPART, b"--b\r\n\r\n1\r\n" + END, "no name"),
    ("a name in another charset", MULTIPART, part("Content-Disposition: form-data; name*=utf-8''data") + END,
    "no name"),
    ("a name that is not UTF-8", MULTIPART, part('Content-Disposition: form-data; name="\udcff"') + END, "not UTF-8"),
    ("a name twice", MULTIPART, part() + part() + END, 'two parts called "data"'),
    ("a header twice", MULTIPART, part(f"{NAMED}\r\n{NAMED}") + END, "two headers content-disposition"),
    ("two types", MULTIPART, part(f"{NAMED}\r\nContent-Type: a/b\r\ncontent-type: c/d") + END, "two headers"),
    ("a header without a colon", MULTIPART, part(f"{NAMED}\r\nnonsense") + END, "malformed"),
    ("a header without a name", MULTIPART, part(f"{NAMED}\r\n: 1") + END, "malformed"),
    ("a space before the colon", MULTIPART, part("Content-Disposition : form-data; name=a") + END, "malformed"),
    ("a control in a header's name", MULTIPART, part(f"{NAMED}\r\nX\0Y: 1") + END, "malformed"),
    ("a long header", MULTIPART, part(f"{NAMED}\r\nX: " + "y" * 20_000) + END, "header"),
    ("a long header's name", MULTIPART, part(f"{NAMED}\r\n" + "x" * 20_000 + ": 1") + END, "header"),
    ("many headers", MULTIPART, part(NAMED + "".join(f"\r\nX{n}: 1" for n in range(200))) + END, "malformed"),
    ("base64", MULTIPART, part(f"{NAMED}\r\nContent-Transfer-Encoding: base64", b"MQ==") + END, "encoded as base64"),
    ("quoted-printable", MULTIPART, part(f"{NAMED}\r\nContent-Transfer-Encoding: quoted-printable") + END, "encoded"),
    ("bad JSON", MULTIPART, part(f"{NAMED}\r\nContent-Type: application/json", b"{") + END, 'the part "data" is not'),
    ("not UTF-8", MULTIPART, part(f"{NAMED}\r\nContent-Type: text/plain", b"\xff") + END,
     'the part "data" is not text'),
    ("an unknown charset", MULTIPART, part(f"{NAMED}\r\nContent-Type: text/plain; charset=x") + END, "charset x"),
    ("1001 parts", MULTIPART, b"".join(part(f"Content-Disposition: form-data; name=a{n}") for n in range(1001)) + END,
     "more than 1000 parts"),
    ("a million boundaries", MULTIPART, b"--b\r\n" * 1_000_000, "more than 1000 parts"),
    ("a million boundaries that are none", MULTIPART, part(data=b"\r\n--bx" * 500_000) + END, "more than 1000 parts"),
]  # fmt: skip
FORMS: list[tuple[str, bytes, str]] = [
    ("a name twice", b"a=1&a=2", 'two fields called "a"'),
    ("a name twice, written differently", b"a=1&%61=2", 'two fields called "a"'),
    ("no name", b"=1", "has no name"),
    ("no name later", b"a=1&=2", "has no name"),
    ("a percent alone", b"a=100%", "a % at byte 5"),
    ("a percent and one digit", b"a=%2", "a % at byte 2"),
    ("a percent and letters", b"a=%zz", "a % at byte 2"),
    ("a percent in the name", b"%g=1", "a % at byte 0"),
    ("a name that is not UTF-8", b"%ff=1", "not UTF-8"),
    ("1001 fields", b"&".join(b"a%d=1" % n for n in range(1001)), "more than 1000 fields"),
    ("many ampersands", b"a=1" + b"&" * 200_000, "more than 1000 fields"),
]
CHARSETS = [
    *words("x utf-7 utf7 idna punycode unicode_escape raw_unicode_escape undefined mbcs rot13 hex zlib bz2 uu base64"),
    *("utf-8-sig", "cp437", "../utf-8", "utf-8 ", '"', "\x80", "x" * 500, "utf-8,utf-16", "iso-2022-jp-2004"),
]
TYPES: list[tuple[str, dict[str, str], bytes, str]] = [
    *(
        (f"text in {charset[:20]!r}", {"Content-Type": f"text/plain; charset={charset}"}, b"abc", "is not known here")
        for charset in CHARSETS
        if charset not in ("utf-8 ",)
    ),
    *(
        (f"JSON in {charset}", {"Content-Type": f"application/json; charset={charset}"}, b"{}", "JSON is UTF-8, not")
        for charset in ("utf-16", "latin-1", "utf-7", "x")
    ),
    *(
        (f"{data!r} as {charset}", {"Content-Type": f"text/plain; charset={charset}"}, data, "not text as its")
        for charset, data in (
            ("utf-8", b"\xff"), ("ascii", b"\x80"), ("utf-16", b"\x00\xd8\x00"), ("utf-16-le", b"\x00\xd8"),
            ("shift_jis", b"\x81"), ("utf-32", b"\x00\x00\x11\x00"), ("utf-8", b"\xed\xa0\x80"), ("gbk", b"\xff"),
        )
    ),
    ("gzip", {"Content-Encoding": "gzip", "Content-Type": "application/json"}, b"\x1f\x8b", "Content-Encoding: gzip"),
    ("deflate", {"Content-Encoding": "deflate"}, b"x", "Content-Encoding: deflate"),
    ("br", {"Content-Encoding": "br"}, b"x", "Content-Encoding: br"),
    ("zstd", {"Content-Encoding": "zstd"}, b"x", "Content-Encoding: zstd"),
    ("two encodings", {"Content-Encoding": "gzip, gzip"}, b"x", "Content-Encoding: gzip, gzip"),
    ("an unknown encoding", {"Content-Encoding": "\x80"}, b"x", "Content-Encoding"),
    ("two types", {"Content-Type": "application/json", "content-type": "text/plain"}, b"{}", "two headers"),
]  # fmt: skip


@pytest.mark.parametrize(("content_type", "body", "words"), [m[1:] for m in MULTIPARTS], ids=[m[0] for m in MULTIPARTS])
def test_multipart(victim: Victim, content_type: str, body: bytes, words: str) -> None:
    victim.refuses(400, words, "POST", "/predictions/parts", body, {"Content-Type": content_type})


@pytest.mark.parametrize(("body", "words"), [form[1:] for form in FORMS], ids=[form[0] for form in FORMS])
def test_urlencoded(victim: Victim, body: bytes, words: str) -> None:
    victim.refuses(400, words, "POST", "/predictions/parts", body, FORM)


LARGE = b"x" * 300_000


BEHIND_A_PART = [form for form in MULTIPARTS if form[0] != "a preamble"]
"""There, a preamble is the part's data."""


@pytest.mark.parametrize(("content_type", "body"), [m[1:3] for m in BEHIND_A_PART], ids=[m[0] for m in BEHIND_A_PART])
def test_a_large_multipart_form_is_refused_in_the_same_words(victim: Victim, content_type: str, body: bytes) -> None:
    named = 'Content-Disposition: form-data; name="large"; filename="x"'
    headers = {"Content-Type": content_type}
    small, large = (
        victim.ask("POST", "/predictions/parts", part(named, data) + body, headers) for data in (b"x", LARGE)
    )
    said = [re.sub("[0-9]+", "N", answer.message) for answer in (small, large)]  # places differ
    assert said[0] == said[1]
    assert small.status == large.status == 400


@pytest.mark.parametrize(("body", "words"), [form[1:] for form in FORMS], ids=[form[0] for form in FORMS])
def test_a_large_urlencoded_form_is_refused_in_the_same_words(victim: Victim, body: bytes, words: str) -> None:
    head = b"large=" + LARGE + b"&"
    words = re.sub("byte ([0-9]+)", lambda found: f"byte {int(found[1]) + len(head)}", words)
    victim.refuses(400, words, "POST", "/predictions/parts", head + body, FORM)


@pytest.mark.parametrize(("headers", "body", "words"), [t[1:] for t in TYPES], ids=[t[0] for t in TYPES])
def test_types(victim: Victim, headers: dict[str, str], body: bytes, words: str) -> None:
    victim.refuses(400, words, "POST", "/predictions/parts", body, headers)


@given(
    st.binary(max_size=200) | st.lists(st.sampled_from([b"--b", b"\r\n", b"--", b":", b"a", part(), END])).map(b"".join)
)
def test_any_multipart_body_is_parts_or_refused(body: bytes) -> None:
    try:
        parts = parse_multipart(MULTIPART, body)
    except InvalidRequest:
        return
    assert len({part.name for part in parts}) == len(parts)


@given(st.text(st.characters(max_codepoint=255), max_size=60))
def test_any_content_type_is_read_or_refused(content_type: str) -> None:
    with suppress(InvalidRequest):
        parse_multipart(content_type, part() + END)
    with suppress(InvalidRequest):
        decode(Part("body", content_type, b"{}"))


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1), st.binary(), min_size=1, max_size=5))
def test_what_is_written_as_a_form_is_read_back(fields: dict[str, bytes]) -> None:
    def escaped(data: bytes) -> bytes:
        return b"".join(b"%%%02x" % byte for byte in data)

    form = b"&".join(escaped(name.encode()) + b"=" + escaped(value) for name, value in fields.items())
    assert is_form(form)
    assert {part.name: part.data for part in parse_form(form)} == fields
