"""What the tests of TensorFlow Serving's protocol over gRPC have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from pdserver.dialects.protos import message_class
from tests.conftest import Lent, fit_file
from tests.running import RunningServer

PREDICTION = "tensorflow.serving.PredictionService"
MODELS = "tensorflow.serving.ModelService"
_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@pytest.fixture(scope="module")
def served(servant: Lent, fit_model: Path) -> Iterator[RunningServer]:
    """With `fit`, a regression of 13 numbers; `echo`, of all types; and `grader`, which has labels."""
    servant("base_handler", "fit", config="batchSize: 4\n", serialized_file=fit_file(fit_model))
    servant("general_echo", "echo", config="batchSize: 4\n")
    yield servant("grader")
    servant.clear()


def named(name: str) -> Any:
    """A message's class."""
    return message_class(f"tensorflow.serving.{name}")


def ask(server: RunningServer, method: str, message: Any, answer: str, service: str = PREDICTION, **how: Any) -> Any:
    """`message`: a message or its bytes; `answer`: the name of its answer's class."""
    with grpc.insecure_channel(server.grpc_inference, _UNLIMITED) as channel:
        call: Any = channel.unary_unary(f"/{service}/{method}", response_deserializer=named(answer).FromString)
        return call(message if isinstance(message, bytes) else message.SerializeToString(), timeout=60, **how)


def predict(server: RunningServer, message: Any, **how: Any) -> Any:
    return ask(server, "Predict", message, "PredictResponse", **how)


def refused(call: Callable[[], Any]) -> tuple[str, str]:
    """The name of the code and the text that a call fails with."""
    try:
        answer = call()
    except grpc.RpcError as error:
        return error.code().name, error.details() or ""
    raise AssertionError(f"it was answered: {str(answer)[:300]}")
