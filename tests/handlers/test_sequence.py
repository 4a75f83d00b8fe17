"""The built-in handler `sequence` with real models: several in a row answer as one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from pdarchiver.pack import PackOptions, pack
from pdserver.errors import LoadFailed
from pdserver.handlers.runtime.service import Service
from pdserver.tensors import array
from pdserver.types import Reply
from tests.handlers.conftest import paddle, spec
from tests.handlers.requests import answer, json, refusal, request, tensor

ROWS = np.random.default_rng(3).normal(size=(4, 13)).astype(np.float32)


def folder(models: Path, place: Path, model: str, feeds: str, fetches: str) -> None:
    place.mkdir()
    for ending in (".json", ".pdiparams"):
        if (models / "pir" / f"{model}{ending}").exists():
            shutil.copy(models / "pir" / f"{model}{ending}", place)
    source = "x" if model == "linear" else "y"
    (place / "serving_server_conf.prototxt").write_text(
        f'feed_var {{ name: "{source}" alias_name: "{feeds}" }}\n'
        f'fetch_var {{ name: "fetch_name_0" alias_name: "{fetches}" }}\n'
    )


def loaded(
    models: Path, here: Path, second: str = "halved", config: Any = None, feeds: str = "money", hidden: str = ""
) -> Service:
    """`linear`, whose output is called money, and then another model; their folders are called first and second."""
    folder(models, here / "first", "linear", "x", "money")
    folder(models, here / "second", second, feeds, "last")
    if hidden:
        (here / "second" / hidden).touch()
    config = {"sequence": {"models": ["first", "second"]}} if config is None else config
    options = PackOptions(
        model_name="row",
        version="1.0",
        handler="sequence",
        extra_files=(str(here / "first"), str(here / "second")),
        export_path=here,
        archive_format="no-archive",
    )
    service = Service(spec(pack(options), config), None)
    service.load()
    return service


def test_each_models_engine_is_told(models: Path, tmp_path: Path) -> None:
    engines = loaded(models, tmp_path).load().engines
    assert [(engine.model, engine.name, engine.trial) for engine in engines] == [
        ("first", "paddle", None),
        ("second", "paddle", None),
    ]


def prices(models: Path) -> Any:
    outputs = paddle.jit.load(str(models / "pir" / "linear"))(paddle.to_tensor(ROWS))
    return (outputs[0] if isinstance(outputs, list | tuple) else outputs).numpy()


def test_the_outputs_of_the_first_are_the_inputs_of_the_second(models: Path, tmp_path: Path) -> None:
    service = loaded(models, tmp_path)
    halves = prices(models) / 2
    *each, several, wrong = service.run(
        [*map(json, ROWS), json({"x": ROWS}), json([1, 2])],
    )
    for outcome, half in zip(each, halves, strict=True):
        assert list(answer(outcome)) == ["last"]
        np.testing.assert_allclose(answer(outcome)["last"], half, rtol=1e-5)
    np.testing.assert_allclose(answer(several)["last"], halves, rtol=1e-5)
    assert refusal(wrong).startswith("invalid: ")
    service.run([*map(json, ROWS)])
    assert service.times.executions == 1, "they share a run"
    typed = msgspec.structs.replace(request(tensor("x", ROWS)), typed=True)
    [outcome] = service.run([typed])
    assert isinstance(outcome, Reply)
    np.testing.assert_allclose(array(outcome.tensors[0]), halves, rtol=1e-5)


def test_requests_share_a_run_only_if_the_rows_of_all_models_are_their_own(models: Path, tmp_path: Path) -> None:
    outcomes = loaded(models, tmp_path, "summed").run([*map(json, ROWS)])
    for outcome, price in zip(outcomes, prices(models), strict=True):
        np.testing.assert_allclose(answer(outcome)["last"], price, rtol=1e-5)


def test_an_encrypted_model_can_not_be_in_a_row(models: Path, tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match=r"sequence\.models: second: encrypted, which models in a row can't be"):
        loaded(models, tmp_path, hidden="encrypt_model")


@pytest.mark.parametrize(
    ("config", "feeds", "words"),
    [
        (None, "cash", r"second can't follow first: it takes cash float32\[-1, 1\], and first gives money float32"),
        ({"sequence": {"models": ["second", "first"]}}, "money", r"first can't follow second: it takes x .*gives last"),
        ({}, "money", "sequence.models: name the folders of the models"),
        ({"sequence": {"models": ["first", "third"]}}, "money", "sequence.models: third: .*no such file"),
        ({"sequence": {"models": ["first", "../first"]}}, "money", "sequence.models: '../first' has a component"),
        ({"sequence": {"model": ["first"]}}, "money", "sequence.model: unknown setting; did you mean models?"),
    ],
)
def test_what_does_not_fit_fails_to_load(models: Path, tmp_path: Path, config: Any, feeds: str, words: str) -> None:
    with pytest.raises(LoadFailed, match=words):
        loaded(models, tmp_path, config=config, feeds=feeds)


def test_no_precision_is_chosen_for_models_in_a_row(models: Path, tmp_path: Path) -> None:
    """Samples say nothing of the models between."""
    config = {"sequence": {"models": ["first", "second"]}, "predictor": {"precision": "auto"}}
    with pytest.raises(LoadFailed, match=r"precision: auto: .* none is made of this model, which is one of several"):
        loaded(models, tmp_path, config=config)
