"""The calls over REST.

Tensors are sent in the Open Inference Protocol's binary form: JSON first, then the tensors' bytes one after the other.
A header holds the length of the JSON. Source: the protocol's extension for binary data, as Triton documents it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec
import orjson

from pdserver.client.answers import ModelMetadata, ServerMetadata
from pdserver.client.arrays import Arrays, Inputs, Wire, from_wire, to_wires
from pdserver.client.calls import Answer, Call, Parameters, opaque, sendable
from pdserver.client.errors import ServerFailed, of_status

T = TypeVar("T")
_HEAD_BYTES = "Inference-Header-Content-Length"
_JSON = "application/json"
MODELS_A_PAGE = 100


def check(answer: Answer) -> None:
    """Raises the ClientError for the answer's status, if it is one of an error."""
    if answer.status >= 400:
        raise of_status(answer.status, _message(answer), answer.retry_after_seconds())


def _message(answer: Answer) -> str:
    """The server's message: "error" in the Open Inference Protocol, "message" in TorchServe's."""
    try:
        said = orjson.loads(answer.body)
        return str(said.get("error") or said["message"])
    except (ValueError, AttributeError, KeyError):
        return answer.body.decode(errors="replace").strip() or f"status {answer.status}"


def _checked(parse: Callable[[Answer], T]) -> Callable[[Answer], T]:
    def parse_good(answer: Answer) -> T:
        check(answer)
        return parse(answer)

    return parse_good


# The inference port


def infer(
    model: str,
    inputs: Inputs,
    version: str | None,
    outputs: Sequence[str],
    parameters: Parameters,
    request_id: str,
) -> Call[Arrays]:
    wires = to_wires(inputs)
    asked: dict[str, Any] = {
        "inputs": [
            {
                "name": wire.name,
                "datatype": wire.datatype,
                "shape": wire.shape,
                "parameters": {"binary_data_size": len(wire.data)},
            }
            for wire in wires
        ],
        "parameters": {**parameters, "binary_data_output": True},
    }
    if outputs:
        asked["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    if request_id:
        asked["id"] = request_id
    head = orjson.dumps(asked)
    body = b"".join([head, *(wire.data for wire in wires)])
    headers = {"Content-Type": "application/octet-stream", _HEAD_BYTES: str(len(head))}
    return Call("POST", f"{_model(model, version)}/infer", _checked(_arrays), body, headers)


def _arrays(answer: Answer) -> Arrays:
    head_bytes = int(answer.headers.get(_HEAD_BYTES, len(answer.body)))
    rest = memoryview(answer.body)
    said = orjson.loads(rest[:head_bytes])
    rest = rest[head_bytes:]
    arrays = {}
    for output in said.get("outputs", []):
        size = output.get("parameters", {}).get("binary_data_size", 0)  # 0: it has no elements
        wire = Wire(output["name"], output["datatype"], output["shape"], rest[:size])
        rest = rest[size:]
        arrays[wire.name] = from_wire(wire)
    return arrays


def predict(model: str, data: object, version: str | None, headers: Mapping[str, str]) -> Call[Any]:
    body, content_type = opaque(data)
    path = f"/predictions/{_quoted(model)}" + (f"/{_quoted(version)}" if version else "")
    return Call("POST", path, _checked(_content), body, {"content-type": content_type, **sendable(headers)})


def _content(answer: Answer) -> Any:
    kind, _, _ = answer.headers.get("content-type", "").partition(";")
    if kind == _JSON:
        return orjson.loads(answer.body)
    return answer.body.decode() if kind.startswith("text/") else answer.body


def live() -> Call[bool]:
    return Call("GET", "/v2/health/live", _is_ok)


def ready(model: str | None, version: str | None) -> Call[bool]:
    return Call("GET", f"{_model(model, version)}/ready" if model else "/v2/health/ready", _is_ok)


def _is_ok(answer: Answer) -> bool:
    if answer.status in (401, 403):
        check(answer)
    return answer.status == 200


def server_metadata() -> Call[ServerMetadata]:
    return Call("GET", "/v2", _checked(lambda answer: msgspec.json.decode(answer.body, type=ServerMetadata)))


def model_metadata(model: str, version: str | None) -> Call[ModelMetadata]:
    parse = _checked(lambda answer: msgspec.json.decode(answer.body, type=ModelMetadata))
    return Call("GET", _model(model, version), parse)


# The management port


def register(url: str, parameters: Parameters) -> Call[str]:
    return Call("POST", f"/models?{_query({'url': url, **parameters})}", _checked(_status))


def scale(model: str, version: str | None, parameters: Parameters) -> Call[str]:
    return Call("PUT", f"{_managed(model, version)}?{_query(parameters)}", _checked(_status))


def set_default(model: str, version: str) -> Call[str]:
    return Call("PUT", f"{_managed(model, version)}/set-default", _checked(_status))


def unregister(model: str, version: str | None) -> Call[str]:
    return Call("DELETE", _managed(model, version), _checked(_status))


def describe(model: str, version: str | None) -> Call[list[dict[str, Any]]]:
    return Call("GET", _managed(model, version), _checked(lambda answer: orjson.loads(answer.body)))


def models(page: str) -> Call[tuple[dict[str, str], str]]:
    query = _query({"limit": MODELS_A_PAGE, **({"next_page_token": page} if page else {})})
    return Call("GET", f"/models?{query}", _checked(lambda answer: models_page(answer.body)))


def models_page(text: bytes | str) -> tuple[dict[str, str], str]:
    """Name → archive, and the next page's token."""
    said = orjson.loads(text)
    return {model["modelName"]: model["modelUrl"] for model in said["models"]}, said.get("nextPageToken", "")


def _status(answer: Answer) -> str:
    try:
        return str(orjson.loads(answer.body)["status"])
    except (ValueError, KeyError, TypeError):
        raise ServerFailed(f"not an answer of the management API: {answer.body[:200]!r}") from None


def _model(model: str, version: str | None) -> str:
    return f"/v2/models/{_quoted(model)}" + (f"/versions/{_quoted(version)}" if version else "")


def _managed(model: str, version: str | None) -> str:
    return f"/models/{_quoted(model)}" + (f"/{_quoted(version)}" if version else "")


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _query(parameters: Parameters) -> str:
    return urlencode({name: str(v).lower() if isinstance(v, bool) else v for name, v in parameters.items()})
