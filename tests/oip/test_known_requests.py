"""Binary requests whose JSON was read before: each has its own data, and nothing else is taken from the earlier one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from tests.oip.conftest import OipServer, pack_fit

ROWS = np.arange(26, dtype=np.float32).reshape(2, 13) / 8


def infer(
    server: OipServer, rows: Any, model: str = "fit", said_bytes: int | None = None, shape: Sequence[int] = (1, 13)
) -> requests.Response:
    """The JSON says that there are `said_bytes` of data."""
    data = np.asarray(rows, np.float32).tobytes()
    size = len(data) if said_bytes is None else said_bytes
    given = {"name": "x", "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    url = f"http://{server.oip}/v2/models/{model}/infer"
    return server.session.post(url, data=head + data, headers=headers, timeout=30)


def value(answer: requests.Response) -> float:
    assert answer.status_code == 200, answer.text
    head = int(answer.headers["Inference-Header-Content-Length"])
    return float(np.frombuffer(answer.content[head:], np.float32)[0])


def test_each_has_the_answer_to_its_own_data(oip_server: OipServer, fit_model: Path) -> None:
    weights = np.load(fit_model / "weights.npz")
    for row in [*ROWS, ROWS[0] + 1, *ROWS]:
        assert value(infer(oip_server, row)) == pytest.approx((row @ weights["w"] + weights["b"]).item(), rel=1e-5)


def test_data_that_do_not_fit_the_json_are_refused(oip_server: OipServer) -> None:
    for _ in range(2):
        value(infer(oip_server, ROWS[0]))
        short = infer(oip_server, ROWS[0, :12], said_bytes=52)
        assert short.status_code == 400
        assert "52" in short.text
        long = infer(oip_server, [*ROWS[0], 1.0], said_bytes=52)
        assert long.status_code == 400
        assert "additional input data" in long.text


def test_what_was_known_of_another_version_does_not_count(oip_server: OipServer, fit_model: Path) -> None:
    """The JSON is the same, and the model takes fewer rows by then."""
    store = Path(oip_server.settings["model_store"])
    try:
        for batch_size, status in ((2, 200), (1, 400)):
            pack_fit(store, fit_model, name="known", batch_size=batch_size)
            oip_server.manage("POST", "/models?url=known-1.pdar&initial_workers=1&synchronous=true").raise_for_status()
            for _ in range(2):
                assert infer(oip_server, ROWS, "known", shape=[2, 13]).status_code == status
            oip_server.manage("DELETE", "/models/known").raise_for_status()
            assert infer(oip_server, ROWS, "known", shape=[2, 13]).status_code == 404
    finally:
        (store / "known-1.pdar").unlink()
