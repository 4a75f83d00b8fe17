"""Paddle Serving's client of its Pipeline: `from paddle_serving_server.pipeline import PipelineClient`.

Names, arguments and what goes over the wire are those of pipeline/pipeline_client.py of paddle_serving_server 0.9.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

try:
    import grpc
except ModuleNotFoundError as error:
    raise ImportError(f"PipelineClient needs {error.name}: pip install 'pdserver[client]'", name=error.name) from None

from pdserver.dialects.paddle.pipeline import PROFILE
from pdserver.dialects.paddle.pipeline_tensors import ELEMENTS, NPY
from pdserver.dialects.protos import message_class
from pdserver.dtypes import BFLOAT16, BYTES

_PACKAGE = "baidu.paddle_serving.pipeline_serving"
_Request, _Response = (message_class(f"{_PACKAGE}.{name}") for name in ("Request", "Response"))
_LARGEST_MESSAGE = 512 * 1024 * 1024
_OPTIONS = [
    ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
    ("grpc.max_send_message_length", _LARGEST_MESSAGE),
    ("grpc.lb_policy_name", "round_robin"),
]
_TYPES = {elements.dtype: (number, elements.field) for number, elements in ELEMENTS.items()}
_TYPES["uint16"] = _TYPES[BFLOAT16]
_TEXT = _TYPES[BYTES][0]


class PipelineClient:
    """`connect` to "HOST:PORT" of one or several servers, then `predict`."""

    def __init__(self) -> None:
        self._inference: Any = None

    def connect(self, endpoints: Sequence[str]) -> None:
        """Requests go to the `endpoints` in turn; several ones are addresses in numbers."""
        target = endpoints[0] if len(endpoints) == 1 else f"ipv4:{','.join(endpoints)}"
        self._inference = grpc.insecure_channel(target, _OPTIONS).unary_unary(
            f"/{_PACKAGE}.PipelineService/inference",
            request_serializer=_Request.SerializeToString,
            response_deserializer=_Response.FromString,
        )

    def predict(
        self,
        feed_dict: Mapping[str, Any],
        fetch: list[str] | None = None,
        asyn: bool = False,
        pack_tensor_format: bool = False,
        use_tensor_bytes: bool = False,
        profile: bool = False,
        log_id: int = 0,
    ) -> Any:
        """The server's Response (err_no, err_msg, key, value, tensors); with `asyn`, what has it as `result()`.

        Texts go as they are, arrays and lists as Python writes them; with `pack_tensor_format`, arrays go as tensors,
        and with `use_tensor_bytes` as .npy files. `logid` and `clientip` in `feed_dict` are the request's own. The
        server answers everything, whatever `fetch` says. Raises TypeError for other values, grpc.RpcError.
        """
        if not isinstance(feed_dict, Mapping):
            raise TypeError(f"feed_dict: expected a dict of values by their names, found {type(feed_dict).__name__}")
        if fetch is not None and not isinstance(fetch, list):
            raise TypeError(f"fetch: expected a list of names, found {type(fetch).__name__}")
        if self._inference is None:
            raise ConnectionError('connect comes first, such as connect(["127.0.0.1:18091"])')
        values = dict(feed_dict)
        request = _Request(logid=log_id or int(values.pop("logid", 0)), clientip=values.pop("clientip", ""))
        values.pop("logid", None)
        for name, value in values.items():
            if not pack_tensor_format:
                request.key.append(name)
                request.value.append(_text(name, value))
            elif not name.endswith(".lod"):
                _fill(request.tensors.add(), name, value, values.get(f"{name}.lod"), as_file=use_tensor_bytes)
        if profile and not pack_tensor_format:
            request.key.append(PROFILE)
            request.value.append("1")
        return self._inference.future(request) if asyn else self._inference(request)


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, np.ndarray | list):
        raise _wrong(name, value)
    with np.printoptions(threshold=sys.maxsize):
        return repr(np.asarray(value))


def _fill(tensor: Any, name: str, value: Any, lod: Any, *, as_file: bool) -> None:
    tensor.name = name
    if isinstance(value, str):
        tensor.elem_type = _TEXT
        tensor.str_data.append(value)
        return
    if not isinstance(value, np.ndarray) or (str(value.dtype) not in _TYPES and not as_file):
        raise _wrong(name, value)
    tensor.shape.extend(value.shape)
    if lod is not None:
        tensor.lod.extend(lod)
    if as_file:
        file = io.BytesIO()
        np.save(file, value, allow_pickle=False)
        tensor.elem_type, tensor.byte_data = NPY, file.getvalue()
        return
    tensor.elem_type, field = _TYPES[str(value.dtype)]
    getattr(tensor, field).extend(value.ravel().tolist())


def _wrong(name: str, value: Any) -> TypeError:
    found = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
    return TypeError(f'"{name}": expected text or an array of numbers, found {found}')
