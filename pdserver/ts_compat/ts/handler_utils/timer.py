"""`ts.handler_utils.timer`."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import Any


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Measures a method in milliseconds, if the model's config file has `handler: {profile: true}`.

    The metric is named `ts_handler_` and the method's name.
    """

    @wraps(function)
    def measured(self: Any, *args: Any, **named: Any) -> Any:
        if not (self.context.model_yaml_config.get("handler") or {}).get("profile"):
            return function(self, *args, **named)
        started = time.perf_counter()
        result = function(self, *args, **named)
        milliseconds = (time.perf_counter() - started) * 1000
        self.context.metrics.add_time(f"ts_handler_{function.__name__}", milliseconds)
        return result

    return measured
