"""multipart/form-data → parts, by python-multipart's parser."""

from __future__ import annotations

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from pdserver.errors import InvalidRequest
from pdserver.formats.values import shown
from pdserver.types import Part

MAX_PARTS = 1000
_MAX_HEADER_BYTES = 16 * 1024
_NO_ENCODING = frozenset({b"binary", b"8bit", b"7bit"})


class _Collector:
    """Gathers what the parser calls back with. All data is in memory already, so a part is a slice list of it."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.names = set[str]()
        self.ended = False
        self._header_name = b""
        self._header_value = b""
        self._headers: dict[bytes, bytes] = {}
        self._data: list[bytes] = []

    def begin(self) -> None:
        self._headers = {}
        self._data = []

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]
        self._check()

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]
        self._check()

    def _check(self) -> None:
        if len(self._header_name) + len(self._header_value) > _MAX_HEADER_BYTES:
            raise InvalidRequest(f"a part of the form has a header of more than {_MAX_HEADER_BYTES:,} bytes")

    def header_end(self) -> None:
        name = self._header_name.lower()
        if name in self._headers:
            raise InvalidRequest(f"a part of the form has two headers {shown(name.decode('latin-1'))}")
        self._headers[name] = self._header_value
        self._header_name = self._header_value = b""

    def data(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])

    def part_end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = _text(options.get(b"name", b""))
        if not name:
            raise InvalidRequest('a part of the form has no name; send Content-Disposition: form-data; name="data"')
        if name in self.names:
            raise InvalidRequest(f'the form has two parts called "{shown(name)}"')
        encoding = self._headers.get(b"content-transfer-encoding", b"binary").strip().lower()
        if encoding not in _NO_ENCODING:
            how = shown(encoding.decode("latin-1"))
            raise InvalidRequest(f'the part "{shown(name)}" is encoded as {how}: send its bytes as they are')
        content_type = self._headers.get(b"content-type", b"").decode("latin-1")
        self.names.add(name)
        self.parts.append(Part(name, content_type, b"".join(self._data)))

    def end(self) -> None:
        self.ended = True


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"the name {shown(repr(name))} of a part of the form is not UTF-8") from None


def parse_multipart(content_type: str, body: bytes) -> list[Part]:
    """The form's parts in their order. Raises InvalidRequest when it is malformed, cut short, or has a name twice."""
    _, options = parse_options_header(content_type.encode("latin-1"))
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise InvalidRequest("multipart/form-data without a boundary in its Content-Type")
    # Before the parser meets them: what looks like a boundary costs it more than data does.
    if body.count(b"--" + boundary) > MAX_PARTS + 1:
        raise InvalidRequest(f"the form has more than {MAX_PARTS} parts")
    collector = _Collector()
    callbacks = {
        "on_part_begin": collector.begin,
        "on_header_field": collector.header_name,
        "on_header_value": collector.header_value,
        "on_header_end": collector.header_end,
        "on_part_data": collector.data,
        "on_part_end": collector.part_end,
        "on_end": collector.end,
    }
    try:
        MultipartParser(boundary, callbacks).write(body)  # type: ignore[arg-type]
    except FormParserError as error:
        raise InvalidRequest(f"malformed multipart/form-data: {shown(str(error))}") from None
    if not collector.ended:
        raise InvalidRequest("the multipart/form-data body is cut short: its last boundary is missing")
    return collector.parts
