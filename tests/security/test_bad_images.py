"""Pictures that are cut short, that lie about their size, or that are none of the four formats."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdserver.errors import InvalidRequest
from pdserver.handlers.vision import images
from tests.security.victim import Victim

SEVEN = (Path(__file__).parent.parent.parent / "examples" / "digits" / "seven.png").read_bytes()
NOISE = np.random.default_rng(1).integers(0, 255, (40, 60, 3), np.uint8)


def encoded(suffix: str) -> bytes:
    done, data = cv2.imencode(suffix, NOISE)
    assert done
    return bytes(data)


GOOD = {suffix: encoded(suffix) for suffix in (".png", ".jpg", ".webp", ".bmp")}


def png(width: int, height: int, rest: bytes = b"", depth: int = 8, color: int = 0) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + rest + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def jpeg(width: int, height: int, before: bytes = b"", frame: int = 0xC0) -> bytes:
    """Its head; what would follow is not needed to know its size."""
    sof = struct.pack(">BBHBHHB", 0xFF, frame, 11, 8, height, width, 1) + b"\x01\x11\x00"
    return b"\xff\xd8" + before + sof + b"\xff\xd9"


def webp(kind: bytes, data: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(data) + 12) + b"WEBP" + kind + struct.pack("<I", len(data)) + data


def bmp(width: int, height: int, header: int = 40) -> bytes:
    return b"BM" + struct.pack("<IHHIIii", 54, 0, 0, 54, header, width, height) + struct.pack("<HH", 1, 24) + bytes(24)


BOMBS: dict[str, bytes] = {
    "PNG of 65,500 by 65,500": png(65_500, 65_500, chunk(b"IDAT", zlib.compress(bytes(65_501 * 10)))),
    "PNG of 2^31 - 1": png(2**31 - 1, 2**31 - 1),
    "PNG of 2^32 - 1 by 1, and more": png(2**32 - 1, 2**32 - 1),
    "PNG, one too high": png(10_001, 10_000),
    "PNG of 16 bits": png(40_000, 40_000, depth=16, color=6),
    "JPEG of 65,535 by 65,535": jpeg(65_535, 65_535),
    "JPEG, progressive": jpeg(65_000, 65_000, frame=0xC2),
    # libjpeg passes over what stands between segments: so must whoever looks for the size.
    "JPEG with a false frame in what libjpeg passes over": jpeg(
        65_000, 65_000, before=b"\xff\xe0\x00\x02\x00\xc0\x00\x0b\x08\x00\x01\x00\x01\x01\x01\x11\x00"
    ),
    "JPEG with filled-up markers": jpeg(65_000, 65_000, before=b"\xff\xff\xff\xfe\x00\x04ab\xff\xff"),
    "WebP, lossy": webp(b"VP8 ", b"\x30\x01\x00\x9d\x01\x2a" + struct.pack("<HH", 0x3FFF, 0x3FFF) + bytes(10)),
    "WebP, lossless": webp(b"VP8L", b"\x2f" + struct.pack("<I", 0xFFFFFFF) + bytes(10)),
    "WebP, extended": webp(b"VP8X", bytes(4) + b"\xff\xff\xff" * 2 + bytes(10)),
    "BMP": bmp(30_000, 30_000),
    "BMP, upside down": bmp(30_000, -30_000),
    "BMP of -2^31": bmp(-(2**31), -(2**31)),
}
OTHERS: dict[str, bytes] = {
    "GIF": b"GIF89a" + bytes(100),
    "TIFF": b"II*\0" + bytes(100),
    "big TIFF": b"MM\0+" + bytes(100),
    "PSD": b"8BPS" + bytes(100),
    "FITS": b"SIMPLE  =                    T" + bytes(100),
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "PDF": b"%PDF-1.7\n",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "DDS": b"DDS " + bytes(124),
    "ICO": b"\0\0\1\0" + bytes(100),
    "WMF": b"\xd7\xcd\xc6\x9a" + bytes(100),
    "OpenEXR": b"\x76\x2f\x31\x01" + bytes(100),
    "Radiance": b"#?RADIANCE\n",
    "PNM": b"P6\n10 10\n255\n" + bytes(300),
    "AVIF": b"\0\0\0\x1cftypavif" + bytes(100),
    "HEIC": b"\0\0\0\x18ftypheic" + bytes(100),
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100),
    "JPEG XL": b"\xff\x0a" + bytes(100),
    "Sun raster": b"\x59\xa6\x6a\x95" + bytes(100),
    "WebP's container without it": b"RIFF\x24\0\0\0WAVE" + bytes(100),
    "gzip": b"\x1f\x8b\x08" + bytes(100),
    "zip": b"PK\x03\x04" + bytes(100),
    "ELF": b"\x7fELF" + bytes(100),
    "a pickle": b"\x80\x04\x95" + bytes(50),
    "text": b"a cat",
    "nothing": b"",
    "zeros": bytes(1000),
}
DAMAGED: dict[str, bytes] = {
    "PNG, signature alone": b"\x89PNG\r\n\x1a\n",
    "PNG, another chunk first": b"\x89PNG\r\n\x1a\n" + chunk(b"IDAT", b"a"),
    "PNG, header too long": b"\x89PNG\r\n\x1a\n\0\0\0\x0eIHDR" + bytes(40),
    "PNG without data": png(8, 8),
    "PNG of 0 by 8": png(0, 8),
    "PNG of 8 by 0": png(8, 0),
    "PNG, impossible depth": png(8, 8, depth=7),
    "PNG, impossible color": png(8, 8, color=5),
    "PNG, data for another size": png(800, 800, chunk(b"IDAT", zlib.compress(b"\0\0"))),
    "PNG, data that are no zlib": png(8, 8, chunk(b"IDAT", b"nonsense")),
    "JPEG of 0 by 0": jpeg(0, 0),
    "JPEG without data": jpeg(8, 8),
    "JPEG, start alone": b"\xff\xd8\xff",
    "JPEG, end at once": b"\xff\xd8\xff\xd9",
    "JPEG, a segment that reaches out": b"\xff\xd8\xff\xe0\xff\xff",
    "JPEG, nothing but fill": b"\xff\xd8" + b"\xff" * 100_000,
    "JPEG, nothing but segments": b"\xff\xd8" + b"\xff\xe0\x00\x02" * 10_000,
    "JPEG, segments of no length": b"\xff\xd8" + b"\xff\xe0\x00\x00" * 10_000,
    "WebP without a picture": webp(b"ICCP", bytes(20)),
    "WebP, cut": GOOD[".webp"][:25],
    "WebP, another start code": webp(b"VP8 ", b"\x30\x01\x00aaa" + struct.pack("<HH", 8, 8)),
    "WebP, a canvas and nothing on it": webp(b"VP8X", bytes(10)),
    "BMP, two letters": b"BM",
    "BMP of 0 by 0": bmp(0, 0),
    "BMP without data": bmp(100, 100),
    "BMP, an impossible header": bmp(8, 8, header=13),
}
BASE64 = {
    "no padding": base64.b64encode(SEVEN).decode().rstrip("=") + "A",
    "blanks": base64.b64encode(SEVEN).decode().replace("A", " A"),
    "dots": "." + base64.b64encode(SEVEN).decode(),
    "a data URL without data": "data:image/png;base64",
    "not ASCII": "ä" * 20,
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(victim: Victim, name: str) -> None:
    victim.refuses(400, "at most 100000000 are accepted", "POST", "/predictions/digits", BOMBS[name])


def test_a_jpeg_of_many_scans(victim: Victim) -> None:
    """30 kB that would take a worker seconds: the last scan of a progressive JPEG, a thousand times."""
    done, data = cv2.imencode(".jpg", np.zeros((2000, 2000), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    assert done
    whole = bytes(data)
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    victim.refuses(400, "more than 50 scans", "POST", "/predictions/digits", whole[:-2] + scan * 1000 + b"\xff\xd9")
    # What follows the end of the picture does not count.
    assert victim.ask("POST", "/predictions/digits", whole + scan * 1000).status == 200


def test_a_png_whose_chunk_claims_more_than_there_is(victim: Victim) -> None:
    """OpenCV would make room for it: two gigabytes and eight seconds, for a hundred bytes."""
    data = png(8, 8, chunk(b"IDAT", zlib.compress(bytes(72))))
    for length in (2**31 - 1, 2**31, 2**32 - 1, 1000):
        lying = data.replace(
            struct.pack(">I", len(zlib.compress(bytes(72)))) + b"IDAT", struct.pack(">I", length) + b"IDAT"
        )
        assert lying != data
        victim.refuses(400, "the PNG image is damaged or incomplete", "POST", "/predictions/digits", lying)


@pytest.mark.parametrize("name", OTHERS)
def test_other_formats(victim: Victim, name: str) -> None:
    words = f"expected a JPEG, PNG, WebP or BMP image, got {len(OTHERS[name])} bytes"
    victim.refuses(400, words, "POST", "/predictions/digits", OTHERS[name])


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged(victim: Victim, name: str) -> None:
    victim.refuses(400, "image", "POST", "/predictions/digits", DAMAGED[name])


@pytest.mark.parametrize("suffix", GOOD)
@pytest.mark.parametrize("part", range(6))
def test_cut_short_within_the_head(victim: Victim, suffix: str, part: int) -> None:
    victim.refuses(400, "image", "POST", "/predictions/digits", GOOD[suffix][: 3 + 4 * part])


@pytest.mark.parametrize("name", BASE64)
def test_base64(victim: Victim, name: str) -> None:
    body = json.dumps({"data": BASE64[name]}).encode()
    victim.refuses(400, "not base64", "POST", "/predictions/digits", body, {"Content-Type": "application/json"})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "expected"), ([1], "expected"), ({}, "expected an image"), (None, "expected"), (True, "expected"),
        (7, "expected"),
        ({"a": 1, "b": 2}, "expected an image"), ([[[[]]]], "expected"), ([[[["a"]]]], "expected"),
    ],
    ids=str,
)  # fmt: skip
def test_values_that_are_no_picture(victim: Victim, value: object, words: str) -> None:
    body = json.dumps(value).encode()
    victim.refuses(400, words, "POST", "/predictions/digits", body, {"Content-Type": "application/json"})


def test_base64_may_have_line_breaks(victim: Victim) -> None:
    body = json.dumps({"data": base64.encodebytes(SEVEN).decode()}).encode()
    assert victim.ask("POST", "/predictions/digits", body, {"Content-Type": "application/json"}).status == 200


@settings(max_examples=60)
@given(st.sampled_from(sorted(GOOD)), st.data())
def test_any_damage_is_refused_or_harmless(suffix: str, draw: st.DataObject) -> None:
    damaged = bytearray(GOOD[suffix])
    for _ in range(draw.draw(st.integers(1, 6))):
        damaged[draw.draw(st.integers(0, min(len(damaged), 400) - 1))] = draw.draw(st.integers(0, 255))
    data = bytes(damaged[: draw.draw(st.integers(0, len(damaged)))])
    try:
        pixels = images.decode(data, gray=False, max_pixels=10_000)
    except InvalidRequest:
        return
    assert pixels.size <= 3 * 10_000
