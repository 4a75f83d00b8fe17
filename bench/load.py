"""Sends requests: a single one, or a closed loop (wrk, or h2load for gRPC)."""

from __future__ import annotations

import json
import math
import ssl
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from bench.closed import Closed
from bench.environments import need
from bench.frames import Frames, ask_frame, closed_frame_loop
from bench.paths import ROOT
from bench.rpc import Rpc, ask_rpc, closed_rpc_loop

_SCRIPT = ROOT / "bench" / "post.lua"
_TLS = ssl.create_default_context()
_TLS.check_hostname, _TLS.verify_mode = False, ssl.CERT_NONE
"""Servers here have certificates that the comparison made for them."""


@dataclass(frozen=True)
class Target:
    """A POST of one body to one URL."""

    url: str
    body_file: Path
    content_type: str
    headers: dict[str, str] = field(default_factory=dict)
    """In a closed loop, `{n}` in a value stands for 16 digits that differ in each request."""

    @property
    def body(self) -> bytes:
        return self.body_file.read_bytes()


def ask(target: Target | Rpc | Frames, timeout_seconds: float = 60.0) -> bytes:
    """The answer's body. Raises OSError if there is none, or if its status is an error."""
    if isinstance(target, Rpc):
        return ask_rpc(target, timeout_seconds)
    if isinstance(target, Frames):
        return ask_frame(target, timeout_seconds)
    headers = {"Content-Type": target.content_type, **target.headers}
    request = urllib.request.Request(target.url, target.body, headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout_seconds, context=_TLS) as response:
            body: bytes = response.read()
            return body
    except urllib.error.HTTPError as error:
        raise OSError(f"status {error.code}: {error.read()[:300]!r}") from None


def closed_loop(target: Target | Rpc | Frames, connections: int, seconds: float) -> Closed:
    """One thread, for whole seconds."""
    if isinstance(target, Rpc):
        return closed_rpc_loop(target, connections, seconds)
    if isinstance(target, Frames):
        return closed_frame_loop(target, connections, seconds)
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
