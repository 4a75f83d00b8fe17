"""Tensors of every type that Paddle's predictor takes and gives, through each dialect and a real model."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from ml_dtypes import bfloat16
from tritonclient import grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc

from pdarchiver.dtypes import PREDICTORS_DTYPES
from tests.conftest import Lent
from tests.oip.test_grpc import contents
from tests.running import RunningServer
from tests.test_client import KINDS, connected

DATATYPES = {
    "bool": "BOOL",
    "int8": "INT8",
    "uint8": "UINT8",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "bfloat16": "BF16",
    "float32": "FP32",
    "float64": "FP64",
}
TWO_ROWS = {
    dtype: [[True, False, True], [False] * 3]
    if dtype == "bool"
    else [[0, 1, 0], [1, 0, 0]]
    if dtype == "uint8"
    else [[0, 1, -2], [3, 4, 5]]
    if "int" in dtype
    else [[0.5, 1.0, -2.5], [3.0, 4.0, 5.5]]
    for dtype in PREDICTORS_DTYPES
}


def right(dtype: str) -> Any:
    return (1 - np.array(TWO_ROWS[dtype], "float32")).astype(bool if dtype == "bool" else "float32").tolist()


@pytest.fixture
def server(lent: Lent, odd_models: Path) -> RunningServer:
    names = {f"fetch_name_{number}": f"out_{dtype}" for number, dtype in enumerate(sorted(PREDICTORS_DTYPES))}
    config = "batchSize: 2\noutputs: {" + ", ".join(f"{old}: {new}" for old, new in names.items()) + "}\n"
    return lent("base_handler", "dtypes", config, serialized_file=odd_models / "dtypes.json")


def test_every_type_in_and_out(server: RunningServer) -> None:
    assert set(DATATYPES) == PREDICTORS_DTYPES
    whole = {f"out_{dtype}": right(dtype) for dtype in DATATYPES}
    rows = [{name: values[row] for name, values in whole.items()} for row in range(2)]

    answer = server.predict("dtypes", json={f"in_{dtype}": rows for dtype, rows in TWO_ROWS.items()})
    assert answer.json() == whole
    answer = server.predict("dtypes", json={f"in_{dtype}": rows[1] for dtype, rows in TWO_ROWS.items()})
    assert answer.json() == rows[1]
    instances = [{f"in_{dtype}": values[row] for dtype, values in TWO_ROWS.items()} for row in range(2)]
    answer = server.session.post(
        f"{server.inference}/v1/models/dtypes:predict", json={"instances": instances}, timeout=60
    )
    assert answer.json() == {"predictions": rows}
    parts = {f"in_{dtype}": npy(values, dtype) for dtype, values in TWO_ROWS.items()}
    assert server.session.post(f"{server.inference}/predictions/dtypes", files=parts, timeout=60).json() == whole

    inputs = [
        {"name": f"in_{dtype}", "datatype": DATATYPES[dtype], "shape": [2, 3], "data": rows}
        for dtype, rows in TWO_ROWS.items()
    ]
    answer = server.session.post(f"{server.inference}/v2/models/dtypes/infer", json={"inputs": inputs}, timeout=60)
    outputs = {output["name"]: output for output in answer.json()["outputs"]}
    for dtype, datatype in DATATYPES.items():
        output = outputs[f"out_{dtype}"]
        assert (output["datatype"], output["data"]) == (datatype, np.ravel(right(dtype)).tolist())

    arrays = {f"in_{dtype}": np.array(rows, numpy_dtype(dtype)) for dtype, rows in TWO_ROWS.items()}
    for kind in KINDS:
        with connected(kind, server) as client:
            found = client.infer("dtypes", arrays)
        for dtype in DATATYPES:
            assert found[f"out_{dtype}"].tolist() == right(dtype), (kind, dtype)


def test_every_type_that_has_contents_goes_in_as_such(lent: Lent, odd_models: Path) -> None:
    dtypes = [dtype for dtype in PREDICTORS_DTYPES if dtype not in ("float16", "bfloat16")]
    server = lent("base_handler", "typed", "batchSize: 2\n", serialized_file=odd_models / "typed.json")
    inputs = [contents(DATATYPES[dtype], np.array(TWO_ROWS[dtype], dtype), f"in_{dtype}") for dtype in dtypes]
    with grpc.insecure_channel(server.grpc_inference) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        answer = triton.InferResult(infer(service_pb2.ModelInferRequest(model_name="typed", inputs=inputs), timeout=60))
    for number, dtype in enumerate(sorted(dtypes)):
        found = answer.as_numpy(f"fetch_name_{number}")
        assert (found.dtype, found.tolist()) == (dtype, right(dtype))


def npy(rows: Any, dtype: str) -> bytes:
    """The format has no bfloat16: float32 stands for it."""
    file = io.BytesIO()
    np.save(file, np.array(rows, "float32" if dtype == "bfloat16" else dtype))
    return file.getvalue()


def numpy_dtype(name: str) -> Any:
    return bfloat16 if name == "bfloat16" else name
