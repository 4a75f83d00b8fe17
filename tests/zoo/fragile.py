"""Crashes as some graphs do with an acceleration that is on by itself: while it loads, at its first run, or always."""

from __future__ import annotations

import os
import signal
from typing import Any

from pdserver.handlers.base import Arrays, BaseHandler


class Fragile(BaseHandler):
    def initialize(self, context: Any) -> None:
        super().initialize(context)
        self._crash("load")

    def inference(self, inputs: Arrays) -> Arrays:
        self._crash("run")
        return super().inference(inputs)

    def _crash(self, when: str) -> None:
        config = self.context.model_yaml_config
        accelerated = config.get("predictor", {}).get("onednn", "auto") == "auto"
        if config["crash"] == when and (accelerated or config.get("always")):
            os.kill(os.getpid(), signal.SIGSEGV)
