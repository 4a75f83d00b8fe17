"""`ts.torch_handler.base_handler`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pdarchiver.labels import INDEX_TO_NAME
from pdserver.handlers import base
from pdserver.handlers.context import Context

from ..utils.util import load_label_mapping


class BaseHandler(base.BaseHandler):
    """This server's BaseHandler, with the attributes that TorchServe's has.

    `initialize` loads a Paddle model. A handler that loads something else overrides it; each step then gets what the
    step before returned.
    """

    initialized = False
    model: Any = None
    """After `initialize`, a function from what `inference` takes to arrays by the names of the outputs."""
    mapping: dict[str, str] | None = None
    """After `initialize`, class → name from index_to_name.json, if there is one."""
    device: str | None = None
    """After `initialize`, "cpu" or "gpu:0": Paddle's names."""
    map_location: str | None = None
    manifest: dict[str, Any] | None = None
    usual_target: Any = 0

    def initialize(self, context: Context) -> None:
        """Raises what this server's BaseHandler raises."""
        self.manifest = context.manifest
        super().initialize(context)
        self.device = self.get_device()
        self.map_location = self.device.partition(":")[0]
        self.model = self._run_model
        self.mapping = load_label_mapping(str(Path(context.system_properties["model_dir"]) / INDEX_TO_NAME))
        self.initialized = True

    def _run_model(self, *inputs: Any, **by_keyword: Any) -> base.Arrays:
        if len(inputs) != 1 or by_keyword:
            raise self.no_inputs(f"{len(inputs) + len(by_keyword)} arguments")
        return base.BaseHandler.inference(self, inputs[0])

    def get_device(self) -> str:
        """Where the model runs, in Paddle's words."""
        gpu_id = self.context.system_properties["gpu_id"]
        return "cpu" if gpu_id is None else f"gpu:{gpu_id}"
