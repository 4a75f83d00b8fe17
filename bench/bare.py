"""Upper bounds: the model in a loop without a server, and a server without a model."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from bench.load import Target
from bench.paths import ROOT
from bench.peers.base import Configuration, Server, worker_environment
from bench.processes import Processes, clean_environment, free_ports
from bench.workloads import Workload


def loop_rate(workload: Workload, processes: int, batch_size: int, seconds: float) -> float:
    """Requests per second of as many processes, each reading, running and answering batches of one request's body."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "bench.bare",
        workload.name,
        str(workload.folder),
        str(workload.request_file),
    ]
    command += ["--batch-size", str(batch_size), "--seconds", str(seconds)]
    environment = worker_environment(workload, Configuration())
    children = [
        subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(processes)
    ]
    try:
        for child in children:
            assert child.stdout
            child.stdout.readline()
        for child in children:
            assert child.stdin
            child.stdin.write("go\n")
            child.stdin.flush()
        return sum(float(child.communicate()[0]) for child in children)
    finally:
        for child in children:
            child.kill()
            child.wait()


def start_echo(workload: Workload, folder: Path) -> Server:
    """uvicorn with an app that only copies the body."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "uvicorn", "bench.serving.echo:app", "--port", str(port), "--no-access-log"]
    environment = clean_environment() | {"PYTHONPATH": str(ROOT)}
    target = Target(f"http://127.0.0.1:{port}/", workload.request_file, workload.content_type)
    body = target.body
    return Server(Processes(command, folder, environment), target, lambda answer: answer == body)


def main() -> None:
    """The child of `loop_rate`: says that it is ready, waits for a line, and says its rate."""
    from bench import model

    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("request", type=Path)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    loaded = model.load(arguments.name, arguments.folder)
    bodies = [arguments.request.read_bytes()] * arguments.batch_size
    loaded.answers([loaded.row(body) for body in bodies])
    print("ready", flush=True)
    sys.stdin.readline()
    count, started = 0, time.monotonic()
    while (elapsed := time.monotonic() - started) < arguments.seconds:
        loaded.answers([loaded.row(body) for body in bodies])
        count += len(bodies)
    print(count / elapsed)


if __name__ == "__main__":
    main()
