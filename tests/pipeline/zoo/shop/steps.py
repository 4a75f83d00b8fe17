"""The steps of a pipeline of tests. A house of ones is refused, and one of twos ends the worker; `slow` are seconds
that each item takes."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

Rows = list[dict[str, Any]]


class Open:
    def handle(self, data: Rows, context: Any) -> list[Any]:
        return [
            {
                "houses": [np.asarray(house, np.float32) for house in row["order"]["houses"]],
                "nonce": row["order"].get("nonce"),
                "slow": row["order"].get("slow", 0),
            }
            for row in data
        ]


def check(data: Rows, context: Any) -> list[Any]:
    time.sleep(max(row["slow"] for row in data))
    if any((row["house"] == 2).all() for row in data):
        os._exit(3)
    return [ValueError("a house of ones") if (row["house"] == 1).all() else {"house": row["house"]} for row in data]


class Sum:
    def handle(self, data: Rows, context: Any) -> list[Any]:
        found: list[Any] = []
        for row in data:
            prices = [float(price.ravel()[0]) for price in row["prices"]]
            asked = {"nonce": row["nonce"], "pid": os.getpid(), "batch": len(data), "where": row["where"].tolist()}
            found.append({"prices": prices, "total": {"sum": sum(prices), **asked}})
        return found
