"""Gives back the tensors that it is given: one input of every datatype."""

from typing import Any

from pdserver.dtypes import DTYPES
from pdserver.types import Interface, Port

LABELS = {0: "cat", 1: "dog"}


class Echo:
    def initialize(self, context: Any) -> None:
        pass

    def handle(self, data: Any, context: Any) -> Any:
        raise ValueError("tensors only")

    def interface(self) -> Interface:
        inputs = [Port(name.lower(), dtype, (-1, -1)) for name, dtype in DTYPES.items()]
        outputs = [Port(port.name, port.dtype, port.shape, LABELS if port.name == "fp32" else {}) for port in inputs]
        return Interface(inputs, outputs, batched=True)

    def handle_tensors(self, inputs: Any) -> Any:
        return inputs
