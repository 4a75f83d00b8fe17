"""Where the front end's microseconds go: its CPU time for each request, divided among stages by what py-spy sees."""

from __future__ import annotations

import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import psutil

from bench import tables
from bench.environments import Environment
from bench.load import closed_loop
from bench.peers.base import Configuration
from bench.peers.ours import Ours
from bench.results import ScenarioResults
from bench.run import WARM_UP_SECONDS, Run
from bench.tables import OURS, Target
from bench.workloads import prepare

TOOLS = Environment("tools", ("py-spy==0.4.3",))
_SAMPLES_PER_SECOND = 500
_CONNECTIONS = 32
_LOOP = "event loop: waiting for sockets, reading them"
STAGES: dict[str, tuple[str, ...]] = {
    "access log": ("pdserver/logs/", "HttpCall._note "),
    "metrics": ("pdserver/metrics/",),
    "write the answer to the client": (
        "HttpCall._write ",
        "HttpCall._head ",
        "pdserver/http/answer_heads.py",
        "HttpCall.answer ",
        "uvicorn/protocols/http/flow_control.py",
    ),
    "decode the request": ("Door.prepare", "decode (pdserver/dialects/", "pdserver/dialects/torchserve/body.py"),
    "encode the answer": ("Door.encode ",),
    "encode the batch for the worker": ("encode (pdserver/worker/wire.py",),
    "send the batch to the worker": ("Channel.send ", "Channel._write ", "LocalWorker.send "),
    "receive and decode the worker's answer": (
        "Channel._readable ",
        "LocalWorker._received ",
        "pdserver/worker/wire.py",
    ),
    "queue: put, take, go on with the next batch": (
        "pdserver/engine/queue.py",
        "pdserver/engine/engine.py",
        "pdserver/engine/names.py",
        "Dispatch.submit ",
        "Dispatch.wake ",
        "Dispatch._go_on ",
        "Dispatch._fill ",
        "Dispatch._go_ahead ",
        "Dispatch._take ",
    ),
    "give the answers to their requests": (
        "pdserver/engine/dispatch.py",
        "pdserver/engine/pool.py",
        "HttpCall.settle ",
    ),
    "parse the request, make its object": (
        "uvicorn/protocols/http/httptools_impl.py",
        "pdserver/http/connection.py",
        "pdserver/http/known_heads.py",
        "pdserver/http/predictions.py",
        "pdserver/http/prediction.py",
        "pdserver/http/call.py",
    ),
}
"""Parts of frames, which read `function (file:line)`. A sample belongs to the first stage that has a part of its
innermost known frame. A test checks each part against the code."""
_OTHER = "other"


class Profile:
    name: ClassVar[str] = "profile"

    def measure(self, run: Run) -> None:
        TOOLS.build()
        with Ours().start(prepare("fit"), Configuration(batch_size=32), run.folder(OURS)) as server:
            process = psutil.Process(server.processes.pid)
            stacks = server.processes.log_file.with_name("stacks.txt")
            with ThreadPoolExecutor(1) as pool:
                load_seconds = WARM_UP_SECONDS + 2 * run.seconds + 5
                load = pool.submit(closed_loop, server.target, _CONNECTIONS, load_seconds)
                time.sleep(WARM_UP_SECONDS)
                # Measured separately: py-spy stops the process for each sample, which costs its threads time too.
                before, batches, started = _thread_seconds(process), server.batches(), time.monotonic()
                time.sleep(run.seconds)
                wall_seconds, later, after = time.monotonic() - started, server.batches(), _thread_seconds(process)
                _record_stacks(process.pid, run.seconds, stacks)
                load.result()
        assert batches
        assert later
        requests = later.requests - batches.requests
        spent = {thread: seconds - before.get(thread, 0.0) for thread, seconds in after.items()}
        for stage, seconds in divide(stacks.read_text().splitlines(), spent, process.pid, wall_seconds).items():
            run.record(OURS, stage, {"us_per_request": seconds / requests * 1e6})

    def report(self, results: ScenarioResults) -> str:
        costs = {case: results.median("us_per_request", case, OURS) or 0.0 for case in results.cases()}
        rows = [[case, f"{cost:.2f}"] for case, cost in sorted(costs.items(), key=lambda item: -item[1])]
        rows.append(["**all**", f"**{sum(costs.values()):.2f}**"])
        note = f"`fit` at c={_CONNECTIONS}: CPU time of the server's first process; its workers are others.\n\n"
        return note + tables.table(["Stage", "µs per request"], rows)

    def targets(self, results: ScenarioResults) -> list[Target]:
        return []


def divide(
    stacks: Iterable[str], thread_seconds: dict[int, float], main_thread: int, wall_seconds: float
) -> dict[str, float]:
    """CPU seconds by stage, from py-spy's raw stacks (`thread (ID): name;frame;… count`) and each thread's CPU time.

    Samples in the event loop itself are its own work, which is not Python, and idle time. The idle time is what the
    thread did not spend of `wall_seconds`.
    """
    samples: Counter[str] = Counter()
    names: dict[int, str] = {}
    for line in stacks:
        text, _, count = line.rpartition(" ")
        thread, *frames = text.split(";")
        match = re.match(r"thread \((\d+)\)(?:: (.*))?", thread)
        number = int(match[1]) if match else main_thread
        names[number] = (match and match[2]) or "without a name"
        if number == main_thread:
            samples[stage_of(frames)] += int(count)
    cpu_seconds = thread_seconds.get(main_thread, 0.0)
    idle = sum(samples.values()) * max(1 - cpu_seconds / wall_seconds, 0.0)
    samples[_LOOP] = max(samples[_LOOP] - round(idle), 0)
    total = sum(samples.values()) or 1
    found = {stage: cpu_seconds * count / total for stage, count in samples.items()}
    for thread_id, value in thread_seconds.items():
        if thread_id != main_thread and value:
            stage = f"thread {names.get(thread_id, 'without a name')}"
            found[stage] = found.get(stage, 0.0) + value
    return found


def stage_of(frames: list[str]) -> str:
    """The stage of the main thread's frames, which are given outermost first."""
    for frame in reversed(frames):
        for stage, parts in STAGES.items():
            if any(part in frame for part in parts):
                return stage
        if frame.startswith(("run (uvloop", "Runner.run")):
            return _LOOP if frame == frames[-1] else _OTHER
    return _OTHER


def _record_stacks(pid: int, seconds: float, file: Path) -> None:
    command = [str(TOOLS.bin / "py-spy"), "record", "--pid", str(pid), "--duration", str(round(seconds))]
    command += ["--rate", str(_SAMPLES_PER_SECOND), "--format", "raw", "--threads", "--idle", "--output", str(file)]
    subprocess.run(command, check=True, capture_output=True)


def _thread_seconds(process: psutil.Process) -> dict[int, float]:
    return {thread.id: thread.user_time + thread.system_time for thread in process.threads()}
