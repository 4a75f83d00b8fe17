"""Pipelines of nodes in a row that do next to nothing, and a handler that calls their functions."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench.peers.ours import BIN

_STEPS = """
def step(value):
    return value + b"."


def handle(data, context):
    return [{"y": step(bytes(row["x"]))} for row in data or ()]


def handle_all(data, context):
    answers = []
    for row in data or ():
        value = bytes(row.get("body", row.get("data")))
        for _ in range(COUNT):
            value = step(value)
        answers.append(value)
    return answers
"""


def write_pipeline(folder: Path, count: int, fuse: str) -> None:
    """A pipeline's folder for the store, with so many nodes. `fuse`: no, yes or auto."""
    folder.mkdir(parents=True)
    (folder / "steps.py").write_text(_STEPS)
    (folder / "sample").write_bytes(b"x")
    nodes = [
        f"  n{i}: {{python: steps.py, inputs: {{x: {f'n{i - 1}.y' if i else 'x'}}}, outputs: {{y: bytes}}}}\n"
        for i in range(count)
    ]
    head = f"inputs: {{x: bytes}}\noutputs: {{y: n{count - 1}.y}}\nfuse: {fuse}\nsamples: [{{x: sample}}]\nnodes:\n"
    (folder / "pipeline.yaml").write_text(head + "".join(nodes))


def pack_functions(store: Path, folder: Path, count: int) -> None:
    """The same in one process: the archive one{count}.pdar, whose handler is written to `folder`."""
    handler = folder / f"all{count}.py"
    handler.write_text(_STEPS + f"\n\nCOUNT = {count}\n")
    command = [str(BIN / "pd-model-archiver"), "--model-name", f"one{count}", "--version", "1.0", "--force"]
    command += ["--handler", f"{handler}:handle_all", "--export-path", str(store)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
