"""A real prediction by the Paddle that is installed, in a process of its own: `python -m pdserver.doctor.prediction`.

Its last line is a `Report` in JSON. The process that asks for it never imports Paddle, and outlives its crashes.
"""

from __future__ import annotations

import base64
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from pdarchiver import model
from pdserver.doctor.machine import Finding
from pdserver.handlers.runtime.predictor_settings import PredictorSettings
from pdserver.system.standard_streams import say

_SECONDS = 300.0
_ROWS = [[1.0, 2.0, 3.0, 4.0], [-1.0, -2.0, -3.0, -4.0]]
_EXPECTED = [[5.0, 5.0], [0.0, 0.0]]
_MODEL = """\
CokFGicKFWZpbGxfY29uc3RhbnRfMS50bXBfMBIMCAcaCAoGCAUQBBACGAAaKwoObGluZWFyXzAudG1wXzASFwgHGhMKDwgFEP///////////wEQ
AhAAGAAaKQoMcmVsdV8wLnRtcF8wEhcIBxoTCg8IBRD///////////8BEAIQABgAGhoKAXgSFQgHGhEKDwgFEP///////////wEQBBoMCgRmZWVk
EgIICRgBGg0KBWZldGNoEgIIChgBIiYKCQoBWBIEZmVlZBIICgNPdXQSAXgaBGZlZWQiCQoDY29sEAAYACLKAQoNCgtTaGFwZVRlbnNvcgoRCg9T
aGFwZVRlbnNvckxpc3QKDQoLVmFsdWVUZW5zb3ISHAoDT3V0EhVmaWxsX2NvbnN0YW50XzEudG1wXzAaDWZpbGxfY29uc3RhbnQiCwoFZHR5cGUQ
ABgFIg8KCWZvcmNlX2NwdRAGUAAiGQoKcGxhY2VfdHlwZRAAGP///////////wEiDQoFc2hhcGUQC3gEeAIiEgoJc3RyX3ZhbHVlEAIqAzAuNSIO
CgV2YWx1ZRABJQAAAD8iZAoGCgFYEgF4ChoKAVkSFWZpbGxfY29uc3RhbnRfMS50bXBfMBIVCgNPdXQSDmxpbmVhcl8wLnRtcF8wGgltYXRtdWxf
djIiDQoHdHJhbnNfeBAGUAAiDQoHdHJhbnNfeRAGUAAiMAoTCgFYEg5saW5lYXJfMC50bXBfMBITCgNPdXQSDHJlbHVfMC50bXBfMBoEcmVsdSIz
ChEKAVgSDHJlbHVfMC50bXBfMBIMCgNPdXQSBWZldGNoGgVmZXRjaCIJCgNjb2wQABgACAAQ////////////AQ==
"""
"""x[-1, 4] → relu(x · w), where w is a matrix of 0.5; a .pdmodel, which Paddle 2.6 and 3.x read, in base64."""
_INSTALL = "pip install 'pdserver[cpu]', or 'pdserver[gpu]' for NVIDIA's GPUs"


class Report(msgspec.Struct):
    """What the child has found."""

    paddle: str = ""
    """The version; empty if it is not installed."""
    cuda: bool = False
    """Whether this Paddle was built for GPUs."""
    gpus: tuple[str, ...] = ()
    """Those that Paddle sees."""
    onednn: bool = False
    """Whether the model ran with oneDNN."""
    load_seconds: float = 0.0
    run_seconds: float = 0.0
    problem: str = ""


def look() -> Iterator[Finding]:
    """Have a child predict, and say what came of it."""
    started = time.monotonic()
    command = [sys.executable, "-W", "ignore", "-m", "pdserver.doctor.prediction"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        yield Finding("prediction", "none", f"no answer in {_SECONDS:.0f} s: Paddle hangs when it is imported or run")
        return
    try:
        report = msgspec.json.decode(done.stdout.splitlines()[-1], type=Report)
    except (IndexError, msgspec.DecodeError):
        yield Finding("prediction", "none", _crash(done))
        return
    yield from _findings(report, time.monotonic() - started)


def _findings(report: Report, whole_seconds: float) -> Iterator[Finding]:
    if not report.paddle:
        yield Finding("paddle", "not installed", report.problem)
        return
    yield Finding("paddle", f"{report.paddle}, for {'GPUs' if report.cuda else 'CPUs alone'}")
    if report.cuda:
        problem = "" if report.gpus else "this Paddle is for GPUs and sees none: look at nvidia-smi and the driver"
        yield Finding("paddle's gpus", ", ".join(report.gpus) or "none", problem)
    if report.problem:
        yield Finding("prediction", "none", report.problem)
        return
    yield Finding("onednn", "works" if report.onednn else "does not work; models run without it")
    times = f"{report.run_seconds * 1000:.1f} ms, loaded in {report.load_seconds * 1000:.0f} ms"
    yield Finding("prediction", f"right, in {times}; {whole_seconds:.1f} s with the import of Paddle")


def _crash(done: subprocess.CompletedProcess[bytes]) -> str:
    words = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it has said nothing"]
    how = f"status {done.returncode}"
    if done.returncode < 0:
        how = signal.Signals(-done.returncode).name
    fix = f"reinstall Paddle: {_INSTALL}"
    if how == "SIGILL":
        fix = "this Paddle was built for another CPU: install one for this CPU"
    return f"the process that predicts ended ({how}): {words[0][:200]}: {fix}"


def _predict() -> Report:
    report = Report()
    try:
        from pdserver.handlers.runtime.described import Described
        from pdserver.handlers.runtime.engines import paddle
        from pdserver.handlers.runtime.engines.candidates import ModelFiles
        from pdserver.handlers.runtime.predictor import Predictor
    except ModuleNotFoundError as error:
        if error.name != "paddle":
            raise
        report.problem = _INSTALL
        return report
    report.paddle, report.cuda, report.gpus = paddle.VERSION, paddle.has_cuda(), paddle.gpus()
    with tempfile.TemporaryDirectory(prefix="pdserver-doctor-") as folder:
        file = Path(folder, "tiny.pdmodel")
        file.write_bytes(base64.b64decode(_MODEL))
        started = time.perf_counter()
        signature = model.read_signature(model.find(file, None))
        predictor = Predictor(Described(ModelFiles(file, None, signature), PredictorSettings(onednn=True), None))
        report.load_seconds = time.perf_counter() - started
        rows = {signature.inputs[0].name: np.array(_ROWS, "float32")}
        predictor.run(rows)  # the first run prepares what depends on the shape
        started = time.perf_counter()
        [found] = predictor.run(rows).values()
        report.run_seconds = time.perf_counter() - started
    report.onednn = predictor.onednn
    if not np.array_equal(found, _EXPECTED):
        report.problem = f"Paddle computes {found.tolist()} in place of {_EXPECTED}: reinstall Paddle: {_INSTALL}"
    return report


if __name__ == "__main__":
    say(msgspec.json.encode(_predict()).decode())
