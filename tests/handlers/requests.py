"""Requests as dialects make them, and what came of them."""

from __future__ import annotations

from io import BytesIO
from typing import Any, Literal

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from pdserver.types import Failure, Outcome, Part, Reply, Request, Tensor

JSON = "application/json"


def request(*inputs: Part | Tensor, id: str = "", headers: dict[str, str] | None = None, path: str = "") -> Request:
    pairs = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    return Request("model", None, id, list(inputs), pairs, path)


def explain(given: Request, verb: Literal["predict", "explain", "describe"] = "explain") -> Request:
    return msgspec.structs.replace(given, verb=verb)


def body(data: bytes, content_type: str = "application/octet-stream") -> Request:
    return request(Part("body", content_type, data))


def json(value: Any) -> Request:
    return body(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY), JSON)


def npy(array: NDArray[Any]) -> bytes:
    file = BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def tensor(name: str, array: NDArray[Any]) -> Tensor:
    return Tensor(name, array.dtype.name, array.shape, array.tobytes())


def answer(outcome: Outcome) -> Any:
    """The JSON of a reply."""
    assert isinstance(outcome, Reply), outcome
    assert outcome.content_type == JSON
    return orjson.loads(outcome.body)


def refusal(outcome: Outcome) -> str:
    """A failure as `kind: message`."""
    assert isinstance(outcome, Failure), outcome
    return f"{outcome.kind.value}: {outcome.message}"
