"""Calls by gRPC: one by itself (grpcio), and a closed loop (h2load)."""

from __future__ import annotations

import math
import re
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from bench.closed import Closed
from bench.environments import need

_DONE = re.compile(r"^requests: .*?(\d+) done, (\d+) succeeded", re.MULTILINE)
_DATA = re.compile(r"^traffic: .*\((\d+)\) data$", re.MULTILINE)
_UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


@dataclass(frozen=True)
class Rpc:
    """A call of one method with one message."""

    address: str
    """host:port"""
    method: str
    """/package.Service/Method"""
    body_file: Path
    """The message as HTTP/2 carries it: after a zero and its length in four bytes."""

    @property
    def url(self) -> str:
        return f"http://{self.address}{self.method}"


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def ask_rpc(rpc: Rpc, timeout_seconds: float = 60.0) -> bytes:
    """The answer's message. Raises OSError when there is none."""
    with grpc.insecure_channel(rpc.address, _UNLIMITED) as channel:
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(rpc.method)
        try:
            return method(rpc.body_file.read_bytes()[5:], timeout=timeout_seconds)
        except grpc.RpcError as error:
            raise OSError(str(error)) from None


def closed_rpc_loop(rpc: Rpc, connections: int, seconds: float) -> Closed:
    """h2load with one thread, one call at a time on each connection, for whole seconds.

    It sees no gRPC status, but an answer that is an error has no message: too few bytes are failures.
    """
    answer_bytes = len(framed(ask_rpc(rpc)))
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [need("h2load", "nghttp2-client"), "-t1", f"-c{connections}", "-m1", f"-D{math.ceil(seconds)}"]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers", "-d", str(rpc.body_file)]
        command += ["--log-file", str(log), rpc.url]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        microseconds = [int(line.split("\t")[2]) for line in log.read_text().splitlines()]
    return parse(done.stdout, microseconds, answer_bytes, math.ceil(seconds))


def parse(said: str, microseconds: Sequence[int], answer_bytes: int, seconds: int) -> Closed:
    """Read h2load's output and the times in its log. Raises RuntimeError for any other output."""
    counts, data = _DONE.search(said), _DATA.search(said)
    if counts is None or data is None:
        raise RuntimeError(f"h2load said {said[-500:]!r}")
    requests, succeeded = map(int, counts.groups())
    answered = min(succeeded, int(data[1]) // answer_bytes)
    cuts = statistics.quantiles(microseconds, n=100, method="inclusive") if len(microseconds) > 1 else [0.0] * 99
    return Closed(
        requests_per_second=requests / seconds,
        p50_ms=cuts[49] / 1e3,
        p99_ms=cuts[98] / 1e3,
        requests=requests,
        failures=requests - answered,
    )
