"""TorchServe's answer to the question whether the server is well."""

from __future__ import annotations

import orjson

from pdserver.engine.engine import Health


def ping_json(health: Health) -> bytes:
    if health.healthy:
        return orjson.dumps({"status": "Healthy"})
    return orjson.dumps({"status": "Unhealthy", "problems": health.problems})
