"""A step of an ensemble: 13 numbers as text, with commas between them → a row of floats."""

import numpy as np
from numpy.typing import NDArray

from pdserver.errors import InvalidRequest
from pdserver.handlers.context import Context
from pdserver.types import Interface, Port


class Splitter:
    def handle(self, data: list[dict[str, object]], context: Context) -> list[str]:
        return ["this is asked by tensors"] * len(data)

    def interface(self) -> Interface:
        return Interface([Port("text", "bytes", (-1, 1))], [Port("x", "float32", (-1, 13))], batched=True)

    def handle_tensors(self, inputs: dict[str, NDArray[np.object_]]) -> dict[str, NDArray[np.float32]]:
        try:
            return {"x": np.asarray([text.split(b",") for [text] in inputs["text"].tolist()], np.float32)}
        except ValueError as error:
            raise InvalidRequest(f"no numbers: {error}") from None
