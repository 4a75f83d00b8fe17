"""The diabetes example through a running server: named measurements in, its own checks, a number out."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.diabetes import data
from tests.running import RunningServer


@pytest.fixture(scope="module")
def server(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("server")
    with RunningServer(folder, built / "demo/store", "diabetes.pdar") as running:
        yield running


@pytest.fixture(scope="module")
def patients() -> list[dict[str, float]]:
    _, held_out = data.load()
    return [dict(zip(data.FEATURES, row, strict=True)) for row in held_out.features.tolist()]


def test_it_predicts_better_than_the_mean(server: RunningServer, patients: list[dict[str, float]]) -> None:
    known, held_out = data.load()
    answers = [server.predict("diabetes", json=patient).json() for patient in patients]
    assert all(answer.keys() == {"progression"} for answer in answers)
    errors = np.array([answer["progression"] for answer in answers]) - held_out.progression
    guesses = known.progression.mean() - held_out.progression
    assert np.abs(errors).mean() < 0.75 * np.abs(guesses).mean()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"age": None}, "age is not a number"),
        ({"bmi": "21"}, "bmi is not a number"),
        ({"sex": True}, "sex is not a number"),
        ({"agee": 3}, 'unknown feature "agee", did you mean age'),
        ({"blood": 3}, 'unknown feature "blood": expected'),
    ],
)
def test_wrong_measurements_are_named(
    server: RunningServer, patients: list[dict[str, float]], change: dict[str, Any], said: str
) -> None:
    answer = server.predict("diabetes", json=patients[0] | change)
    assert answer.status_code == 400
    assert said in answer.json()["message"]


def test_a_missing_measurement_is_named(server: RunningServer, patients: list[dict[str, float]]) -> None:
    answer = server.predict("diabetes", json={name: value for name, value in patients[0].items() if name != "s5"})
    assert answer.status_code == 400
    assert "s5 is missing" in answer.json()["message"]


def test_what_is_no_object_is_refused(server: RunningServer) -> None:
    answer = server.predict("diabetes", json=[1, 2, 3])
    assert answer.status_code == 400
    assert "expected a JSON object with the numbers age, sex" in answer.json()["message"]


def test_one_wrong_patient_does_not_spoil_the_batch(server: RunningServer, patients: list[dict[str, float]]) -> None:
    alone = [server.predict("diabetes", json=patient).json() for patient in patients[:8]]
    # Long enough for all eight to be one batch.
    changed = server.manage("POST", "/models?url=diabetes.pdar&model_name=together&batch_size=8&max_batch_delay=600000"
                            "&initial_workers=1&synchronous=true")  # fmt: skip
    assert changed.ok, changed.text
    mixed = [patient if index % 2 else {"age": 1} for index, patient in enumerate(patients[:8])]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda patient: server.predict("together", json=patient), mixed))
    assert [answer.status_code for answer in answers] == [400, 200] * 4
    assert [answer.json() for answer in answers[1::2]] == alone[1::2]
    assert server.metric("pd_batch_size_count", model_name="together") == 1
