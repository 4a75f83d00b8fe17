"""Gives back numbers times the `factor` of its YAML, which so tells whose answer it is; a batch takes `seconds`.

With `die`, it ends its process while it is loaded.
"""

import os
import time
from typing import Any

from pdserver.types import Interface, Port


class Times:
    def initialize(self, context: Any) -> None:
        if context.model_yaml_config.get("die"):
            os._exit(9)
        self.factor = context.model_yaml_config["factor"]
        self.seconds = context.model_yaml_config.get("seconds", 0)

    def handle(self, data: Any, context: Any) -> Any:
        raise ValueError("tensors only")

    def interface(self) -> Interface:
        return Interface([Port("x", "float64", (-1, 1))], [Port("y", "float64", (-1, 1))], batched=True)

    def handle_tensors(self, inputs: Any) -> Any:
        time.sleep(self.seconds)
        return {"y": inputs["x"] * self.factor}
