"""Pictures as clients send them → pixels. OpenCV reads other formats than JPEG, PNG, WebP and BMP; they are refused."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pdserver.errors import InvalidRequest
from pdserver.types import Binary

Pixels = NDArray[np.uint8]
"""[height, width, 3] in the order blue, green, red, or [height, width] for gray."""

EXPECTED = "expected a JPEG, PNG, WebP or BMP image"
"""The beginning of errors."""
_MAX_SCANS = 50
"""The most scans of a JPEG. Encoders make about ten."""
_PNG_CHUNK = struct.Struct(">I4s")
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xff])", re.DOTALL)


def decode(data: Binary, *, gray: bool, max_pixels: int) -> Pixels:
    """The picture as a person sees it: turned upright as its EXIF orientation says, without its transparency.

    Raises InvalidRequest for other formats, damaged files, and pictures of more than `max_pixels`. Those are known by
    their header, before anything is decoded: a file of a few kB can stand for gigabytes of pixels.
    """
    title, width, height = size(data)
    if width * height > max_pixels:
        raise InvalidRequest(f"the image has {width}×{height} pixels; at most {max_pixels} are accepted")
    try:
        pixels: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.shape[:2] not in ((height, width), (width, height)):
        raise InvalidRequest(f"the {title} image is damaged or incomplete")
    return pixels  # type: ignore[no-any-return]


def size(data: Binary) -> tuple[str, int, int]:
    """Format, width and height, from the header; before the EXIF orientation is applied.

    Raises InvalidRequest for anything but a JPEG, PNG, WebP or BMP file with a whole header and at least one pixel.
    """
    for title, magic, measure in _FORMATS:
        if magic.match(data):
            try:
                width, height = measure(data)
            except (struct.error, IndexError):
                raise InvalidRequest(f"the {title} image ends within its header") from None
            if not width or not height:
                raise InvalidRequest(f"the {title} image has {width}×{height} pixels")
            return title, width, height
    raise InvalidRequest(f"{EXPECTED}, got {len(data)} bytes of something else")


def is_image(data: Binary) -> bool:
    """Whether the data begin like an image, damaged or not."""
    return any(magic.match(data) for _, magic, _ in _FORMATS)


def _jpeg(data: Binary) -> tuple[int, int]:
    """Walk the segments (ITU T.81, annex B) to the frame header: SOF0 to SOF15, without DHT, JPG and DAC.

    Bytes between the segments are passed over, as libjpeg does it: else it could find another frame header than this.
    """
    at = 2
    while found := _JPEG_MARKER.search(data, at):
        (marker,), at = found[1], found.end()
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 3)
            # The count is quick. It is too high only if more pictures follow the first one.
            if data.count(b"\xff\xda") > _MAX_SCANS and _has_many_scans(data, at):
                raise InvalidRequest(f"the JPEG image has more than {_MAX_SCANS} scans")
            return width, height
        at += _segment_bytes(data, marker, at)
    raise IndexError


def _segment_bytes(data: Binary, marker: int, at: int) -> int:
    stands_alone = marker == 0x01 or 0xD0 <= marker <= 0xD9
    length: int = 0 if stands_alone else struct.unpack_from(">H", data, at)[0]
    return length


def _has_many_scans(data: Binary, at: int) -> bool:
    """A scan of a progressive JPEG can be a few bytes long, and still costs a walk through all pixels."""
    scans = 0
    while (found := _JPEG_MARKER.search(data, at)) and found[1] != b"\xd9":
        (marker,), at = found[1], found.end()
        scans += marker == 0xDA
        if scans > _MAX_SCANS:
            return True
        at += _segment_bytes(data, marker, at)
    return False


def _png(data: Binary) -> tuple[int, int]:
    """Also check that every chunk is complete, since OpenCV allocates as many bytes as a chunk claims to have."""
    width, height = struct.unpack_from(">II", data, 16)
    at = 8
    while True:
        length, kind = _PNG_CHUNK.unpack_from(data, at)
        at += _PNG_CHUNK.size + length + 4
        if at > len(data):
            raise InvalidRequest("the PNG image is damaged or incomplete")
        if kind == b"IEND":
            return width, height


def _webp(data: Binary) -> tuple[int, int]:
    """RFC 9649: lossy, lossless, or extended with the canvas's size."""
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X" and len(data) >= 30:
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    raise IndexError


def _bmp(data: Binary) -> tuple[int, int]:
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header_bytes == 12 else "<ii", data, 18)
    return abs(width), abs(height)


_FORMATS: tuple[tuple[str, re.Pattern[bytes], Callable[[Binary], tuple[int, int]]], ...] = (
    ("JPEG", re.compile(rb"\xff\xd8\xff"), _jpeg),
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"), _png),
    ("WebP", re.compile(rb"RIFF....WEBP", re.DOTALL), _webp),
    ("BMP", re.compile(rb"BM"), _bmp),
)
