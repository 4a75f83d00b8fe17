"""Triton with Python functions (PyTriton), asked in its own protocol, with binary tensors where they are large."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path
from typing import ClassVar

import numpy as np
import orjson

from bench import OUTPUT
from bench.environments import COMMON, Environment, install, need
from bench.load import Target
from bench.paths import ROOT
from bench.peers.base import Configuration, Server, worker_environment
from bench.processes import Processes, free_ports
from bench.workloads import Workload

# It wants an older numpy than ours, which our OpenCV does not work with, and a Python with its shared library, of the
# release that its stubs were made for: Debian's, not one that was built by hand.
ENVIRONMENT = Environment(
    "pytriton",
    (
        *(requirement for requirement in COMMON if "opencv" not in requirement),
        "opencv-python-headless<5",
        "nvidia-pytriton==0.7.0",
    ),
    interpreter="/usr/bin/python3",
)


class PyTriton:
    name: ClassVar[str] = "PyTriton"

    def build(self) -> None:
        need(ENVIRONMENT.interpreter, "python3-venv")
        asked = subprocess.run([ENVIRONMENT.interpreter, "-V"], check=True, capture_output=True, text=True)
        package = "libpython" + ".".join(asked.stdout.split()[1].split(".")[:2])
        if not list(Path("/usr/lib").glob(f"*/{package}.so.1.0")):
            install(package)
        ENVIRONMENT.build()

    def version(self) -> str:
        return ENVIRONMENT.version("nvidia-pytriton")

    def start(self, workload: Workload, configuration: Configuration, folder: Path) -> Server:
        ports = free_ports(3)
        command = [ENVIRONMENT.python, str(ROOT / "bench" / "serving" / "pytriton_app.py"), *map(str, ports)]
        processes = Processes(command, folder, worker_environment(workload, configuration))
        body, headers = _request(workload)
        file = folder / "request"
        file.write_bytes(body)
        url = f"http://127.0.0.1:{ports[0]}/v2/models/{workload.name}/infer"
        target = Target(url, file, "application/octet-stream" if headers else "application/json", headers)
        return Server(processes, target, lambda answer: _is_right(workload, answer))


def _request(workload: Workload) -> tuple[bytes, dict[str, str]]:
    """The body and, for binary ones, the header that says where its JSON ends."""
    data = workload.request_file.read_bytes()
    if workload.content_type == "application/json":
        row = orjson.loads(data)["x"]
        given = {"name": "x", "shape": [1, len(row)], "datatype": "FP32", "data": row}
        return orjson.dumps({"inputs": [given]}), {}
    if data.startswith(b"\x93NUMPY"):
        array = np.load(io.BytesIO(data))
        return _binary("FP32", [1, *array.shape], array.tobytes())
    return _binary("BYTES", [1, 1], len(data).to_bytes(4, "little") + data)


def _binary(datatype: str, shape: list[int], data: bytes) -> tuple[bytes, dict[str, str]]:
    given = {"name": "x", "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": len(data)}}
    asked = {"name": OUTPUT, "parameters": {"binary_data": True}}
    head = orjson.dumps({"inputs": [given], "outputs": [asked]})
    return head + data, {"Inference-Header-Content-Length": str(len(head))}


def _is_right(workload: Workload, answer: bytes) -> bool:
    """The tensor in its answer, as the other servers would have put it."""
    text = answer.decode("latin-1")
    try:
        head, end = json.JSONDecoder().raw_decode(text)
        (output,) = head["outputs"]
    except (ValueError, KeyError):
        return False
    if output["datatype"] == "BYTES":
        return workload.is_right(answer[end + 4 :])
    values = output["data"] if "data" in output else np.frombuffer(answer[end:], np.float32)
    expected = workload.expected()
    return workload.agrees(values if isinstance(expected, np.ndarray) else {OUTPUT: values})
