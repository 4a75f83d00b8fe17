"""Gives back the tensors that it is given: one input of every type that Paddle Serving's protocol has."""

from typing import Any

from pdserver.types import Interface, Port

DTYPES = (
    *("int64", "float32", "int32", "float64", "int16", "float16", "bfloat16", "uint8", "int8", "bool"),
    "bytes",
)


class GeneralEcho:
    def initialize(self, context: Any) -> None:
        pass

    def handle(self, data: Any, context: Any) -> Any:
        raise ValueError("tensors only")

    def interface(self) -> Interface:
        ports = [Port(dtype, dtype, (-1, -1), source=f"own.{dtype}") for dtype in DTYPES]
        return Interface(ports, ports, batched=True)

    def handle_tensors(self, inputs: Any) -> Any:
        return inputs
