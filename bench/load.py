"""Requests: one by itself, a closed loop (wrk), and an open one with a constant rate of arrivals."""

from __future__ import annotations

import json
import math
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from bench.environments import need
from bench.paths import ROOT

_SCRIPT = ROOT / "bench" / "post.lua"


@dataclass(frozen=True)
class Target:
    """A POST of one body to one URL."""

    url: str
    body_file: Path
    content_type: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        return self.body_file.read_bytes()


@dataclass(frozen=True)
class Closed:
    """What a number of clients saw, each of which waits for an answer before it asks again."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    requests: int
    failures: int
    """Answers other than 2xx and 3xx, broken connections and timeouts."""


def ask(target: Target, timeout_seconds: float = 60.0) -> bytes:
    """The answer's body. Raises OSError when there is none, or one with an error's status."""
    headers = {"Content-Type": target.content_type, **target.headers}
    request = urllib.request.Request(target.url, target.body, headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout_seconds) as response:
            body: bytes = response.read()
            return body
    except urllib.error.HTTPError as error:
        raise OSError(f"status {error.code}: {error.read()[:300]!r}") from None


def closed_loop(target: Target, connections: int, seconds: float) -> Closed:
    """wrk with one thread, for whole seconds."""
    command = [
        need("wrk", "wrk"),
        "-t1",
        f"-c{connections}",
        f"-d{math.ceil(seconds)}s",
        "--timeout",
        "60s",
        "-s",
        str(_SCRIPT),
    ]
    command += [target.url, "--", str(target.body_file), f"Content-Type: {target.content_type}"]
    command += [f"{name}: {value}" for name, value in target.headers.items()]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    said = json.loads(done.stdout.splitlines()[-1])
    return Closed(
        requests_per_second=said["requests"] / (said["duration_us"] / 1e6),
        p50_ms=said["p50_us"] / 1e3,
        p99_ms=said["p99_us"] / 1e3,
        requests=said["requests"],
        failures=said["failures"],
    )
