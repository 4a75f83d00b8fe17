"""JSON documents that must be refused: made here, by rules, and each with what is wrong with it as its name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NoReturn


def words(text: str) -> list[str]:
    """Cases that hold no blanks, side by side."""
    return text.split()


GOOD = '{"x": [[1.5, -2e3, true, null, "a\\u00e9\\n", {}]], "y": {"z": []}}'
_NUMBERS = (
    "NaN Infinity -Infinity nan inf +1 01 -01 .5 1. 1e 1e+ 1e400 -1e400 0x10 0b1 1_000 １ --1 - + 1.e1 1e1.5 "
    "1,000 1f 1L ∞ " + "9" * 400
).split()
_WORDS = words("True False None undefined tRUE nul nulll truefalse 'a' a \\u0031 (1) [1;2] <a/>")
_ESCAPES = r"\a \x41 \u12 \u \uZZZZ \' \0 \v \U0001F600 \8 \ " + "\\"
_SURROGATES = words(r"\ud800 \udc00 \ud800\u0041 \ud800\ud800 \udc00\ud800 a\udbffb \uDFFF")
_BYTES = (
    b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xc0\x80", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xff",
    b"\xfe", b"\x80", b"\xf8\x88\x80\x80\x80",
)  # fmt: skip
_STRUCTURES = """
[1,] | [,1] | [1,,2] | [,] | [1 2] | [1] [2] | {"a":1,} | {,"a":1} | {"a":1,,"b":2} | {"a" 1} | {"a"::1} | {"a":}
| {"a"} | {:1} | {a:1} | {'a':1} | {1:1} | {null:1} | {[]:1} | {"a":1 "b":2} | {"a":1;"b":2} | {"a"=1} | [ | { | ] | }
| [} | {] | [[] | {"a":[} | [1] | {}} | []] | {} {} | {}x | "a" "b" | [1] // no | [1] # no | /* no */ [1] | [1 /* no */]
| [1]\f | \u00a0[1] | [1\u2028] | "a | a" | "\n" | "\t" | ["a\r"] | {"a":"b | <html> | a=1 | --- | - a | @
"""


def refused() -> Iterator[tuple[str, bytes]]:
    """What is wrong, and the document. All of it is against RFC 8259, or against this server's further rules."""
    yield from _not_json()
    yield from _too_much()


def _not_json() -> Iterator[tuple[str, bytes]]:
    yield "empty", b""
    yield "blanks", b" \r\n\t"
    for end in range(1, len(GOOD)):
        yield f"ends at {end}", GOOD[:end].encode()
    for number in _NUMBERS:
        yield f"number {number[:12]}", f'{{"x": [{number}]}}'.encode()
    for word in _WORDS:
        yield f"word {word}", f'{{"x": {word}}}'.encode()
    for escape in _ESCAPES.split(" "):
        yield f"escape {escape}", f'{{"x": "{escape}"}}'.encode()
    for surrogate in _SURROGATES:
        yield f"surrogate {surrogate}", f'{{"x": "{surrogate}"}}'.encode()
        yield f"surrogate {surrogate} in a key", f'{{"{surrogate}": 1}}'.encode()
    for control in range(32):
        yield f"control {control}", b'{"x": "' + bytes([control]) + b'"}'
    for data in _BYTES:
        yield f"bytes {data.hex()}", b'{"x": "' + data + b'"}'
        yield f"bytes {data.hex()} outside", b'{"x": ' + data + b"}"
    for structure in _STRUCTURES.encode().decode("unicode_escape").split("|"):
        text = structure.strip(" \n")
        if not _is_json(text):
            yield f"structure {text}", text.encode()
    for position in range(0, len(GOOD), 3):
        for inserted in "\0\x7f,:}]\\'":
            text = GOOD[:position] + inserted + GOOD[position:]
            if not _is_json(text):
                yield f"{inserted!r} at {position}", text.encode()
    yield "a byte order mark", b"\xef\xbb\xbf{}"
    for charset in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        yield charset, GOOD.encode(charset)


def _too_much() -> Iterator[tuple[str, bytes]]:
    for depth in (101, 102, 200, 1000, 100_000):
        yield f"{depth} lists", b"[" * depth + b"]" * depth
        yield f"{depth} objects", b'{"a":' * depth + b"1" + b"}" * depth
        yield f"{depth} lists that don't end", b"[" * depth
    yield "deep behind much", b"[" + b"[1,2]," * 500 + b"[" * 101 + b"]" * 101 + b"]"
    yield "deep behind rows of numbers", b"[" + b"[1,2],[3e4]," * 500 + b"[" * 100 + b"[1]" * 9 + b"]" * 101
    yield "101 deep around many rows", b"[" * 100 + b"[1, 2], " * 500 + b"[3]" + b"]" * 100
    yield "deep among texts of brackets", b'[["]]]]", "[[", ' * 60 + b"[]" + b"]]" * 60
    yield "deep beside brackets in a text", b'{"a": "]]]]]]]]]]]]]]]]", "b": ' + b"[" * 101 + b"]" * 101 + b"}"
    twins = [
        '{"a": 1, "a": 2}',
        '{"a": 1, "a": 1}',
        '{"a": 1, "\\u0061": 2}',
        '{"": 1, "": 2}',
        '{"x": {"a": 1, "b": 2, "a": 3}}',
        '[{"a": 1}, {"a": 1, "a": 2}]',
        '{"x": "a: b: c", "x": 1}',
        '{"é": 1, "\\u00e9": 2}',
        '{"x": [[1], {"y": {"k": null, "k": null}}]}',
        '{"a": 1, "A": 1, "a": 1}',
    ]
    for number, text in enumerate(twins):
        yield f"twins {number}", text.encode()
    yield "twins far apart", json.dumps({f"k{n}": n for n in range(3000)}).replace('"k2999"', '"k0"').encode()


def accepted() -> Iterator[tuple[str, bytes]]:
    """Odd, and right."""
    yield "good", GOOD.encode()
    yield "100 lists", b"[" * 100 + b"]" * 100
    yield "many lists side by side", b"[" + b"[1,2]," * 500 + b"[]]"
    yield "100 deep around many rows", b"[" * 99 + b"[1, 2], " * 500 + b"[3]" + b"]" * 99
    yield "a tensor", b"[" + b",".join([b"[[1,2],[3,4]]"] * 500) + b"]"
    yield "the same key in two objects", b'[{"a": 1}, {"a": 2}]'
    yield "colons in texts", b'{"a": "::::", "b": {"c": ":"}, ":": 1}'
    yield "brackets in texts", b'{"a": "' + b"[" * 500 + b'"}'
    yield "a pair of surrogates", b'{"a": "\\ud83d\\ude00"}'
    yield "a text alone", b'"a"'
    yield "a large number", b'{"a": 123456789012345678901234567890, "b": -0.0, "c": 1e308, "d": 1e-400}'


def _is_json(text: str) -> bool:
    def refuse(_: str) -> NoReturn:
        raise ValueError

    def without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            refuse("")
        return dict(pairs)

    try:
        json.loads(text, parse_constant=refuse, object_pairs_hook=without_twins)
    except ValueError:
        return False
    return True
