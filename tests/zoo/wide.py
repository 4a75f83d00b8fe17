"""Rows of any width, of the dtype that the model's YAML says, and answers as large as they ask for."""

from typing import Any

import numpy as np

from pdserver.errors import InvalidRequest
from pdserver.types import Interface, Port


class Wide:
    def initialize(self, context: Any) -> None:
        self.dtype = context.model_yaml_config.get("dtype", "float32")

    def handle(self, data: Any, context: Any) -> Any:
        """The size of each part."""
        return [{name: len(value) for name, value in row.items()} for row in data]

    def interface(self) -> Interface:
        """`x` → how many elements a row has, and as many ones as its first element says."""
        return Interface(
            [Port("x", self.dtype, (-1, -1))],
            [Port("count", "int64", (-1, 1)), Port("last", self.dtype, (-1, 1)), Port("ones", "float32", (-1, -1))],
            batched=True,
        )

    def handle_tensors(self, inputs: Any) -> Any:
        x = inputs["x"]
        if self.dtype == "bytes":
            ones = 0
        elif x[0, 0] < 0:
            raise InvalidRequest("how many ones?")
        else:
            ones = int(x[0, 0])
        count = np.full((len(x), 1), x.shape[1], np.int64)
        return {"count": count, "last": x[:, -1:], "ones": np.ones((len(x), ones), np.float32)}
