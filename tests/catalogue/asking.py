"""One request, on a connection of its own."""

from __future__ import annotations

from typing import Any

import requests

from tests.running import RunningServer


def ask(server: RunningServer, model: str, **body: Any) -> requests.Response:
    return requests.post(f"{server.inference}/predictions/{model}", json=body, timeout=60)
