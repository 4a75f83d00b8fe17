"""What answers have in common, in whatever encoding."""

from __future__ import annotations

from pdserver.dialects.paddle.request import GeneralRequest, microseconds
from pdserver.errors import Unsupported
from pdserver.tensors import array
from pdserver.types import Tensor

ENGINE = "GeneralInferOp_0"
"""The name of the only step that Paddle Serving's clients look for."""


def profile_of(request: GeneralRequest, wrote_from_us: int) -> list[int]:
    """When the whole began and ended; before that, if the request asks for it, the reading, the model's run with the
    time that the request waited for it, and the writing. In microseconds since 1970."""
    now = microseconds()
    if not request.profiled:
        return [request.began_us, now]
    steps = [request.began_us, request.read_us, request.read_us, wrote_from_us, wrote_from_us, now]
    return [*steps, request.began_us, now]


def texts_of(tensor: Tensor) -> list[str]:
    """The elements of an output of dtype "bytes". Raises Unsupported for what is no text."""
    try:
        return [element.decode() for element in array(tensor).reshape(-1)]
    except UnicodeDecodeError:
        raise Unsupported(
            f"output '{tensor.name}' is not UTF-8, which this protocol's strings are: leave it out of fetch_var_names, "
            "or ask at /v2/models/{model}/infer"
        ) from None
