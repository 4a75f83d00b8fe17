"""Releases with known weaknesses can't be installed beside the server: its lower bounds are above them."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FLOORS = {
    "grpcio": "1.59.2",  # rapid resets of HTTP/2 streams: CVE-2023-44487
    "hpack": "2.3.0",  # header blocks that unpack to gigabytes: CVE-2016-6581
    "httptools": "0.8.0",  # llhttp 9, which takes no request that can be read in two ways
    "orjson": "3.9.15",  # recursion without a limit: CVE-2024-27454
    "protobuf": "4.25.8",  # recursion without a limit: CVE-2025-4565
    "python-multipart": "0.0.31",  # forms that take quadratic time: CVE-2024-53981 and later ones
    "pyyaml": "6.0",  # loaders that run code by default
    "starlette": "1.3.1",  # a Host header that changes the path, limits of forms that were ignored: CVE-2026-48710, …
    "uvicorn": "0.51.0",  # log lines that a path forges: CVE-2020-7694
}


def numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)))


@pytest.mark.parametrize("name", FLOORS)
def test_the_lower_bound_is_not_below(name: str) -> None:
    [lowest] = re.findall(rf'^    "{name}>=([\d.]+)', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert numbers(lowest) >= numbers(FLOORS[name])
    assert numbers(version(name)) >= numbers(lowest)


def test_protobuf_is_not_the_one_in_python() -> None:
    """Which recurses as deep as a message says: CVE-2025-4565."""
    from google.protobuf.internal import api_implementation

    assert api_implementation.Type() == "upb"
