"""The steps of a pipeline of large values: all of them go in memory files, but for the rows, which are parts of one."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np

Rows = list[dict[str, Any]]
ROW = 50_000


class Open:
    def handle(self, data: Rows, context: Any) -> list[Any]:
        pages = [bytes(row["page"]) for row in data]
        return [{"pixels": np.frombuffer(page, np.uint8).reshape(-1, ROW), "copy": page} for page in pages]


class Invert:
    """Its rows become large."""

    def handle(self, data: Rows, context: Any) -> list[Any]:
        return [{"row": np.tile(~row["row"], 6)} for row in data]


class Close:
    def handle(self, data: Rows, context: Any) -> list[Any]:
        return [self.one(row) for row in data]

    def one(self, row: dict[str, Any]) -> dict[str, Any]:
        whole = np.stack([each[:ROW] for each in row["rows"]])
        return {
            "told": {"copied": row["copy"] == row["page"], "digest": digest(~whole), "pid": os.getpid()},
            "whole": whole,
        }


def digest(data: Any) -> str:
    return hashlib.sha256(data).hexdigest()
