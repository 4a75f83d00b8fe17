"""Releases with known weaknesses can't be installed beside the server: its lower bounds are above them."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent.parent
FLOORS = {
    "cryptography": "44.0.1",  # an OpenSSL that can take an impostor for a peer: CVE-2024-12797
    "grpcio": "1.66.2",  # what one client sends shows in another's calls: CVE-2024-7246, CVE-2024-11407
    "h11": "0.16.0",  # chunks that are read in two ways: CVE-2025-43859; uvicorn and httpx bring it
    "h2": "4.3.0",  # headers that hold a second request: CVE-2025-57804
    "hpack": "4.2.0",  # header blocks that cost more than they weigh: CVE-2016-6581, GHSA-8v8h-hg4w-mvq2
    "httptools": "0.8.0",  # llhttp 9, which takes no request that can be read in two ways: CVE-2024-27982
    "opencv-python-headless": "4.12.0.88",  # pictures that write out of bounds: CVE-2023-4863, CVE-2025-53644
    "orjson": "3.11.6",  # recursion without a limit, reading and writing: CVE-2024-27454, CVE-2025-67221
    "protobuf": "5.29.6",  # recursion without a limit: CVE-2025-4565, CVE-2026-0994
    "python-multipart": "0.0.32",  # forms that take quadratic time or any memory: CVE-2026-53539, CVE-2026-53540, …
    "pyyaml": "6.0",  # loaders that run code by default
    "requests": "2.33.0",  # credentials for another host, a file that others can guess: CVE-2024-47081, CVE-2026-25645
    "starlette": "1.3.1",  # a Host header that changes the path, limits of forms that were ignored: CVE-2026-48710, …
    "uvicorn": "0.51.0",  # log lines that a path forges: CVE-2020-7694
}
LEFT_OUT = {
    "protobuf": ("6.30.0", "6.31.1", "6.32.1", "6.33.0", "6.33.4"),  # CVE-2026-0994 is mended in 5.29.6 and in 6.33.5
}
"""Later releases with weaknesses that the floor does not have."""


def numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)))


@pytest.mark.parametrize("name", FLOORS)
def test_the_lower_bound_is_not_below(name: str) -> None:
    bounds = re.findall(rf'"{name}>=([\d.]+)', (ROOT / "pyproject.toml").read_text())
    assert bounds
    for lowest in bounds:
        assert numbers(lowest) >= numbers(FLOORS[name])
        assert numbers(version(name)) >= numbers(lowest)


@pytest.mark.parametrize("name", LEFT_OUT)
def test_releases_with_known_weaknesses_are_left_out(name: str) -> None:
    [required] = re.findall(rf'^    "({name}>=[^"]+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    for release in LEFT_OUT[name]:
        assert not Requirement(required).specifier.contains(release)


def test_protobuf_is_not_the_one_in_python() -> None:
    """Which recurses as deep as a message says: CVE-2025-4565."""
    from google.protobuf.internal import api_implementation

    assert api_implementation.Type() == "upb"
