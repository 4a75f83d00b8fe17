"""Other ways to ask than TorchServe's REST: the requests' files, their addresses, and the check of answers."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from bench import open_inference as oip
from bench.load import Target
from bench.peers.base import Way
from bench.rpc import Rpc, framed
from bench.workloads import Workload

REST = "TorchServe's REST"
OIP_JSON = "OIP, JSON"
OIP_BINARY = "OIP, binary"
OIP_GRPC = "OIP, gRPC"
PREDICTIONS = "TorchServe's gRPC"


def open_inference_ways(workload: Workload, folder: Path, http: str, grpc: str) -> dict[str, Way]:
    """The ways to ask a server of the Open Inference Protocol at these addresses. Pictures can't be sent as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    url = f"http://{http}/v2/models/{workload.name}/infer"
    right = partial(oip.is_right, workload)
    binary, headers = oip.binary_request(workload)
    ways = {
        OIP_BINARY: Way(Target(url, _file(folder, "binary", binary), "application/octet-stream", headers), right),
        OIP_GRPC: _rpc(
            folder, "infer", grpc, oip.INFER, oip.infer_message(workload), partial(oip.is_right_infer, workload)
        ),
    }
    if workload.content_type == "application/json":
        file = _file(folder, "json", oip.json_request(workload))
        ways[OIP_JSON] = Way(Target(url, file, "application/json"), right)
    return ways


def prediction_way(workload: Workload, folder: Path, grpc: str) -> Way:
    """The way to ask a server of TorchServe's gRPC API."""
    message = oip.prediction_message(workload)
    return _rpc(folder, "prediction", grpc, oip.PREDICTIONS, message, partial(oip.is_right_prediction, workload))


def _rpc(folder: Path, name: str, address: str, method: str, message: bytes, is_right: partial[bool]) -> Way:
    return Way(Rpc(address, method, _file(folder, name, framed(message))), is_right)


def _file(folder: Path, name: str, content: bytes) -> Path:
    path = folder / f"request-{name}"
    path.write_bytes(content)
    return path
