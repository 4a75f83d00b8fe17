"""application/x-www-form-urlencoded → parts, strictly. Source: the section of that name in https://url.spec.whatwg.org."""

from __future__ import annotations

import binascii
import re

from pdserver.errors import InvalidRequest
from pdserver.formats.values import shown
from pdserver.types import Part

_OF_FORMS = bytes(range(0x21, 0x7F))
_BEGINNING_BYTES = 4096
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_MAX_FIELDS = 1000


def is_form(data: bytes) -> bool:
    """curl says of whatever it sends with -d and --data-binary that it is a form; this says whether it can be one."""
    beginning = data[:_BEGINNING_BYTES]  # tells enough of nearly all that is none
    return not beginning.translate(None, _OF_FORMS) and b"=" in data and not data.translate(None, _OF_FORMS)


def parse_form(data: bytes, what: str = "the form") -> list[Part]:
    """The fields of `what` in their order. Raises InvalidRequest."""
    if data.count(b"&") >= _MAX_FIELDS:
        raise InvalidRequest(f"{what} has more than {_MAX_FIELDS} fields")
    if len(_unquoted(data)) != len(data) - 2 * data.count(b"%") and (bad := _BAD_ESCAPE.search(data)):
        raise InvalidRequest(f"{what} has a % at byte {bad.start()} that two hexadecimal digits don't follow")
    parts: list[Part] = []
    names = set[str]()
    for field in data.replace(b"+", b" ").split(b"&"):
        if not field:
            continue
        raw_name, _, value = field.partition(b"=")
        name = _name(_unquoted(raw_name), what)
        if name in names:
            raise InvalidRequest(f'{what} has two fields called "{shown(name)}"')
        names.add(name)
        parts.append(Part(name, "", _unquoted(value)))
    return parts


def _unquoted(text: bytes) -> bytes:
    """With %XX as the byte that it stands for, by the decoder of quoted-printable, which has = for %: urllib's takes
    seconds, and gigabytes, for a large form."""
    return binascii.a2b_qp(text.replace(b"=", b"=3D").replace(b"%", b"="))


def _name(raw: bytes, what: str) -> str:
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"the name {shown(repr(raw))} of a field of {what} is not UTF-8") from None
    if not name:
        raise InvalidRequest(f"a field of {what} has no name")
    return name
