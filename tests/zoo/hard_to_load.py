"""What it does while it is loaded is in the model's YAML: `loading: {…}`; without a word there, it echoes."""

import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from pdserver.handlers.runtime.parts import opened


class Handler:
    def initialize(self, context: Any) -> None:
        how = context.model_yaml_config.get("loading", {})
        while "until" in how and not Path(how["until"]).exists():
            if how.get("else") == "die":
                traceback.print_stack()
                print("the licence server does not answer", file=sys.stderr)
                os._exit(9)
            if how.get("else") == "raise":
                raise FileNotFoundError("the vocabulary is missing")
            time.sleep(0.01)
        if how.get("hang"):
            signal.pause()

    def handle(self, data: Any, context: Any) -> Any:
        return [opened(row.get("body")) for row in data]
