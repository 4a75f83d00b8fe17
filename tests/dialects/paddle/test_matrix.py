"""The same model and tensors by every dialect and encoding: equal answers."""

from __future__ import annotations

import ast
import base64
import gzip
import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from pdserver.dialects.protos import message_class
from tests.dialects.paddle.conftest import PaddleServer
from tests.dialects.paddle.tensors import PACKAGE, Request, Response
from tests.prpc_client import GZIP, NONE, ZLIB, Prpc

Array = NDArray[Any]
Ask = Callable[[PaddleServer, Array], Any]
ROWS = (np.arange(26, dtype=np.float32).reshape(2, 13) / 8 - 1).astype(np.float32)
PIPELINE = "baidu.paddle_serving.pipeline_serving"
GENERAL = f"{PACKAGE}.GeneralModelService"


def posted(server: PaddleServer, path: str, body: Any, **headers: str) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    answer = server.session.post(server.inference + path, data=data, headers=kind, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer


def called(server: PaddleServer, method: str, message: bytes) -> bytes:
    with grpc.insecure_channel(server.grpc_inference) as channel:
        ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        return ask(message, timeout=60)


def torchserve(server: PaddleServer, rows: Array) -> Any:
    return posted(server, "/predictions/uci", {"features": rows.tolist()}).json()["price"]


def torchserve_grpc(server: PaddleServer, rows: Array) -> Any:
    package = "org.pytorch.serve.grpc.inference"
    asked = message_class(f"{package}.PredictionsRequest")(
        model_name="uci", input={"body": json.dumps({"features": rows.tolist()}).encode()}
    )
    answer = called(server, f"/{package}.InferenceAPIsService/Predictions", asked.SerializeToString())
    return json.loads(message_class(f"{package}.PredictionResponse").FromString(answer).prediction)["price"]


def kserve(server: PaddleServer, rows: Array) -> Any:
    given = {"instances": [{"features": row} for row in rows.tolist()]}
    answers = posted(server, "/v1/models/uci:predict", given).json()["predictions"]
    return [answer["price"] if isinstance(answer, dict) else answer for answer in answers]


def tensorflow_grpc(server: PaddleServer, rows: Array) -> Any:
    shape = {"dim": [{"size": length} for length in rows.shape]}
    given = message_class("tensorflow.TensorProto")(dtype=1, tensor_shape=shape, tensor_content=rows.tobytes())
    asked = message_class("tensorflow.serving.PredictRequest")(model_spec={"name": "uci"}, inputs={"features": given})
    answer = called(server, "/tensorflow.serving.PredictionService/Predict", asked.SerializeToString())
    price = message_class("tensorflow.serving.PredictResponse").FromString(answer).outputs["price"]
    return price.float_val or np.frombuffer(price.tensor_content, np.float32)


def oip(server: PaddleServer, rows: Array) -> Any:
    given = {"name": "features", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}
    (output,) = posted(server, "/v2/models/uci/infer", {"inputs": [given]}).json()["outputs"]
    return output["data"]


def oip_binary(server: PaddleServer, rows: Array) -> Any:
    size = {"binary_data_size": rows.nbytes}
    given = {"name": "features", "datatype": "FP32", "shape": list(rows.shape), "parameters": size}
    head = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}}).encode()
    answer = posted(
        server, "/v2/models/uci/infer", head + rows.tobytes(), Inference_Header_Content_Length=str(len(head))
    )
    return np.frombuffer(answer.content[int(answer.headers["Inference-Header-Content-Length"]) :], np.float32)


def oip_grpc(server: PaddleServer, rows: Array) -> Any:
    given = {"name": "features", "datatype": "FP32", "shape": rows.shape}
    asked = message_class("inference.ModelInferRequest")(
        model_name="uci", inputs=[given], raw_input_contents=[rows.tobytes()]
    )
    answer = called(server, "/inference.GRPCInferenceService/ModelInfer", asked.SerializeToString())
    return np.frombuffer(message_class("inference.ModelInferResponse").FromString(answer).raw_output_contents[0], "<f4")


def general(rows: Array, *, content: bool = False) -> bytes:
    elements = {"tensor_content": rows.tobytes()} if content else {"float_data": rows.ravel()}
    given = {"alias_name": "features", "elem_type": 1, "shape": rows.shape, **elements}
    return bytes(Request(tensor=[given], fetch_var_names=["price"]).SerializeToString())


def given_in(response: bytes) -> Any:
    return Response.FromString(response).outputs[0].tensor[0].float_data


def cpp_json(server: PaddleServer, rows: Array) -> Any:
    given = {"alias_name": "features", "elem_type": 1, "shape": list(rows.shape), "float_data": rows.ravel().tolist()}
    answer = posted(server, "/GeneralModelService/inference", {"tensor": [given], "fetch_var_names": ["price"]})
    return answer.json()["outputs"][0]["tensor"][0]["float_data"]


def cpp_json_content(server: PaddleServer, rows: Array) -> Any:
    content = base64.b64encode(rows.tobytes()).decode()
    given = {"name": server.own_input, "elem_type": 1, "shape": list(rows.shape), "tensor_content": content}
    answer = posted(server, "/uci/GeneralModelService/inference", {"tensor": [given]})
    return answer.json()["outputs"][0]["tensor"][0]["float_data"]


def cpp_proto(server: PaddleServer, rows: Array) -> Any:
    body = general(rows)
    return given_in(posted(server, "/GeneralModelService/inference", body, Content_Type="application/proto").content)


def cpp_gzip(server: PaddleServer, rows: Array) -> Any:
    answer = posted(
        server,
        f"/{GENERAL}/inference",
        gzip.compress(general(rows, content=True)),
        Content_Type="application/proto",
        Content_Encoding="gzip",
        Accept_Encoding="gzip",
    )
    return given_in(answer.content)


def cpp_grpc(server: PaddleServer, rows: Array) -> Any:
    return given_in(called(server, f"/{GENERAL}/inference", general(rows)))


def prpc(compress_type: int, compress: Callable[[bytes], bytes] = bytes) -> Ask:
    def ask(server: PaddleServer, rows: Array) -> Any:
        with Prpc(server.inference) as client:
            answer = client.call(f"{GENERAL}/inference", compress(general(rows)), compress_type=compress_type)
        assert answer.errno == 0, answer.text
        return given_in(answer.message)

    return ask


def old_web_service(server: PaddleServer, rows: Array) -> Any:
    given = {"feed": [{"features": row} for row in rows.tolist()], "fetch": ["price"]}
    return posted(server, "/uci/prediction", given).json()["result"]["price"]


def pipeline_text(server: PaddleServer, rows: Array) -> Any:
    given = {"key": ["features"], "value": [json.dumps(rows.tolist())]}
    answer = posted(server, "/uci/prediction", given).json()
    assert (answer["err_no"], answer["key"]) == (0, ["price"]), answer
    text = answer["value"][0]
    return ast.literal_eval(text[text.index("[") : text.rindex("]") + 1])


def npy(rows: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, rows)
    return file.getvalue()


def pipeline_tensor(server: PaddleServer, rows: Array) -> Any:
    given = {"name": "features", "elem_type": 1, "shape": rows.shape, "float_data": rows.ravel().tolist()}
    return posted(server, "/uci/any_method", {"tensors": [given]}).json()["tensors"][0]["float_data"]


def pipeline_npy(server: PaddleServer, rows: Array) -> Any:
    given = {"name": "features", "elem_type": 13, "byte_data": base64.b64encode(npy(rows)).decode()}
    answer = posted(server, "/uci/prediction", {"tensors": [given]}).json()
    assert answer["err_no"] == 0, answer
    return answer["tensors"][0]["float_data"]


def pipeline_grpc(server: PaddleServer, rows: Array) -> Any:
    given = {"name": "features", "elem_type": 13, "byte_data": npy(rows)}
    asked = message_class(f"{PIPELINE}.Request")(name="uci", method="prediction", tensors=[given])
    answer = called(server, f"/{PIPELINE}.PipelineService/inference", asked.SerializeToString())
    return message_class(f"{PIPELINE}.Response").FromString(answer).tensors[0].float_data


WAYS: dict[str, Ask] = {
    "TorchServe, JSON": torchserve,
    "TorchServe, gRPC": torchserve_grpc,
    "KServe v1": kserve,
    "TensorFlow Serving, gRPC": tensorflow_grpc,
    "OIP, JSON": oip,
    "OIP, binary": oip_binary,
    "OIP, gRPC": oip_grpc,
    "C++ server, JSON": cpp_json,
    "C++ server, JSON with bytes": cpp_json_content,
    "C++ server, protobuf": cpp_proto,
    "C++ server, gzip": cpp_gzip,
    "C++ server, gRPC": cpp_grpc,
    "PRPC": prpc(NONE),
    "PRPC, gzip": prpc(GZIP, gzip.compress),
    "old web service": old_web_service,
    "Pipeline, text": pipeline_text,
    "Pipeline, tensor": pipeline_tensor,
    "Pipeline, .npy": pipeline_npy,
    "Pipeline, gRPC": pipeline_grpc,
    "PRPC, zlib": prpc(ZLIB, zlib.compress),
}


@pytest.mark.parametrize("ask", WAYS.values(), ids=WAYS)
def test_every_way_gives_the_models_answer(paddle_server: PaddleServer, fit_model: Path, ask: Ask) -> None:
    weights = np.load(fit_model / "weights.npz")
    expected = (ROWS @ weights["w"] + weights["b"]).ravel()
    np.testing.assert_allclose(np.array(ask(paddle_server, ROWS), np.float32).ravel(), expected, rtol=1e-5)
