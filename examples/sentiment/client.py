"""Ask what the writers of some texts feel, by the Open Inference Protocol.

    python examples/sentiment/client.py 早餐很丰富 房间并不干净

The texts are asked for at once, and so share runs of the model.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import requests

CLIENTS = 8


def ask(server: str, text: str) -> dict[str, Any]:
    """{"label": "positive" or "negative", "probabilities": {label: number}}. Exits with what is wrong."""
    message = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}]}
    answer = requests.post(f"{server}/v2/models/sentiment/infer", json=message, timeout=30).json()
    if "error" in answer:
        raise SystemExit(f"{text}: {answer['error']}")
    [output] = answer["outputs"]
    found: dict[str, Any] = json.loads(output["data"][0])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask the sentiment example what the writers of some texts feel.")
    parser.add_argument("text", nargs="+")
    parser.add_argument("--server", default="http://localhost:8080", help="%(default)s")
    given = parser.parse_args()
    with ThreadPoolExecutor(CLIENTS) as threads:
        for text, found in zip(given.text, threads.map(partial(ask, given.server), given.text), strict=True):
            print(f"{text}: {found['label']}, {found['probabilities'][found['label']]:.0%} sure")


if __name__ == "__main__":
    main()
