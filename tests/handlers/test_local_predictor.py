"""Paddle Serving's LocalPredictor under its names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pdserver.errors import HandlerFailed
from pdserver.local_predict import LocalPredictor


def test_the_local_predictor_takes_both_names_and_any_dtype(serving_models: Path) -> None:
    predictor = LocalPredictor()
    predictor.load_model_config(str(serving_models / "uci_housing_model"))
    assert (predictor.feed_names_, predictor.fetch_names_) == (["x"], ["price"])
    assert predictor.predict({"x": [1] * 13}, fetch="price")["price"].tolist() == [[13.5]]
    rows = predictor.predict(feed={"x": np.ones((2, 13), np.float64)}, fetch=["price"], batch=True)
    assert rows["price"].tolist() == [[13.5], [13.5]]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"y": 1}, 'no input "y"; its inputs are x'),
        ({"x": "text"}, '"x": expected an array of float32'),
        ({"x": [1] * 13, "x.lod": [0, 1]}, "LoD"),
    ]
    for feed, said in wrong:
        with pytest.raises(HandlerFailed) as error:
            predictor.predict(feed)
        assert said in str(error.value)
    with pytest.raises(HandlerFailed, match='no output "prices"; did you mean price'):
        predictor.predict({"x": [1] * 13}, fetch=["prices"])
