"""A custom handler: a JSON object of named measurements in, a JSON object out.

It checks and scales its input, and leaves loading and running the model to its base class. If some patients of a batch
have wrong measurements, only those get an error.
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

import numpy as np

from pdserver.errors import InvalidRequest
from pdserver.handlers.base import Arrays, BaseHandler
from pdserver.handlers.context import Context


class DiabetesHandler(BaseHandler):
    """`{"age": 48, "sex": 1, "bmi": 21.6, …}` in the units of data.py → `{"progression": 103.6}`."""

    def initialize(self, context: Context) -> None:
        super().initialize(context)
        file = Path(context.system_properties["model_dir"]) / "scaling.json"
        scaling: dict[str, dict[str, float]] = json.loads(file.read_text())
        self.features = list(scaling)
        self.mean = np.array([scale["mean"] for scale in scaling.values()])
        self.std = np.array([scale["std"] for scale in scaling.values()])

    def preprocess(self, data: list[dict[str, Any]]) -> Arrays:
        """The good patients' features, float32 of shape [rows, 10]; `places` says which patient is which row."""
        rows: list[list[float]] = []
        places: list[int | InvalidRequest] = []
        for request in data:
            try:
                row = self._measurements(request.get("body", request))
            except InvalidRequest as error:
                places.append(error)
            else:
                places.append(len(rows))
                rows.append(row)
        self.places = places
        features = np.array(rows, np.float64).reshape(-1, len(self.features))
        return {"features": ((features - self.mean) / self.std).astype(np.float32)}

    def postprocess(self, outputs: Arrays) -> list[dict[str, float]]:
        return [{"progression": round(float(value), 1)} for value in outputs["progression"][:, 0]]

    def _measurements(self, patient: object) -> list[float]:
        """The ten numbers in the order that the model wants; raises InvalidRequest, which the client sees."""
        expected = f"expected a JSON object with the numbers {', '.join(self.features)}"
        if not isinstance(patient, dict):
            raise InvalidRequest(expected)
        for name in patient.keys() - set(self.features):
            close = difflib.get_close_matches(name, self.features, n=1)
            hint = f", did you mean {close[0]}" if close else ""
            raise InvalidRequest(f'unknown feature "{name[:40]}"{hint}: {expected}')
        for name in self.features:
            if name not in patient:
                raise InvalidRequest(f"{name} is missing: {expected}")
            if type(patient[name]) not in (int, float):
                raise InvalidRequest(f"{name} is not a number: {expected}")
        return [patient[name] for name in self.features]
