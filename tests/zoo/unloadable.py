"""Can't be loaded, for the reason that its settings name."""

from typing import Any

from pdserver.types import Interface, Port

HALF = "\ud800"


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError(self)


class Unloadable:
    def initialize(self, context: Any) -> None:
        self._why = context.model_yaml_config["why"]
        if self._why == "half a pair":
            raise ValueError(f"no {HALF} here")
        if self._why == "no memory":
            raise MemoryError("8 TB")
        if self._why == "no words":
            raise Mute

    def handle(self, data: Any, context: Any) -> Any:
        return data

    def interface(self) -> Any:
        if self._why == "no interface":
            return {"inputs": []}
        return Interface([Port(HALF, "float32", (1,))], [], batched=True)

    def handle_tensors(self, inputs: Any) -> Any:
        return inputs
