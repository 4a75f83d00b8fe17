"""Scores two classes, once the file `go` is beside the file `begun`, which it writes to the folder of its config."""

import time
from pathlib import Path
from typing import Any

from pdserver.types import Interface, Port


class Patient:
    def initialize(self, context: Any) -> None:
        self._folder = Path(context.model_yaml_config["folder"])

    def handle(self, data: Any, context: Any) -> Any:
        raise ValueError("tensors only")

    def interface(self) -> Interface:
        labels = {0: "cat", 1: "dog"}
        return Interface([Port("x", "float32", (-1, 1))], [Port("y", "float32", (-1, 2), labels)], batched=True)

    def handle_tensors(self, inputs: Any) -> Any:
        (self._folder / "begun").touch()
        while not (self._folder / "go").exists():
            time.sleep(0.01)
        return {"y": inputs["x"].repeat(2, axis=1)}
