"""TorchServe's answer to the question whether the server is well."""

from __future__ import annotations

import orjson

from pdserver.engine.catalogue import Health


def ping_json(health: Health, *, details: bool) -> bytes:
    """With `details`, what is wrong; else only that something is, for anybody's eyes."""
    if health.healthy:
        return orjson.dumps({"status": "Healthy"})
    if not details:
        return orjson.dumps({"status": "Unhealthy"})
    return orjson.dumps({"status": "Unhealthy", "problems": health.problems})
