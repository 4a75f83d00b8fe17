"""Classify, Regress and MultiInference, the models' metadata and states, and reload: answers, codes and words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.dialects.tensorflow.conftest import MODELS, ask, named, refused
from tests.running import RunningServer

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


def feature(values: Any) -> dict[str, Any]:
    kind = {bytes: "bytes_list", int: "int64_list", float: "float_list"}[type(values[0])]
    return {kind: {"value": values}}


def example(**features: Any) -> dict[str, Any]:
    return {"features": {"feature": {name: feature(values) for name, values in features.items()}}}


def examples(*given: Any) -> dict[str, Any]:
    return {"example_list": {"examples": given}}


GRADED = (
    example(x=[0.5, 1.5], count=[7], sure=[1], tag=[b"abc"], extra=[1]),
    example(x=[1, 2], count=[7], sure=[0], tag=[b""]),
)
ROWS = [[0.5, 1.5, 10.0], [1.0, 2.0, 0.0]]


def request(kind: str, input: dict[str, Any], **spec: Any) -> Any:
    return named(kind)(model_spec={"name": "grader", **spec}, input=input)


def classify(server: RunningServer, message: Any) -> Any:
    return ask(server, "Classify", message, "ClassificationResponse")


def regress(server: RunningServer, message: Any) -> Any:
    return ask(server, "Regress", message, "RegressionResponse")


def multi(server: RunningServer, message: Any) -> Any:
    return ask(server, "MultiInference", message, "MultiInferenceResponse")


def test_examples_are_classified(served: RunningServer) -> None:
    for given in (
        examples(*GRADED),
        {"example_list_with_context": {"examples": [example(x=[0.5, 1.5], tag=[b"abc"]), GRADED[1]],
                                       "context": example(count=[7], sure=[1], tag=[b"no"])}},
    ):  # fmt: skip
        answer = classify(served, request("ClassificationRequest", given))
        spec = answer.model_spec
        assert (spec.name, spec.version.value, spec.signature_name) == ("grader", 1, "serving_default")
        rows = answer.result.classifications
        assert [[found.label for found in row.classes] for row in rows] == [["cat", "dog", "2"]] * 2
        assert [[found.score for found in row.classes] for row in rows] == ROWS


def test_many_examples(served: RunningServer) -> None:
    """A codec process reads them."""
    answer = classify(served, request("ClassificationRequest", examples(*GRADED * 1000)))
    rows = answer.result.classifications
    assert [[found.score for found in row.classes] for row in rows] == ROWS * 1000


def with_context(context: Any, count: int) -> Any:
    given = {"example_list_with_context": {"examples": [{}] * count, "context": context}}
    return request("ClassificationRequest", given)


def test_a_context_of_many_examples(served: RunningServer) -> None:
    """The message is small, what it says is not. So a codec process reads it, unless it is larger than requests may
    be."""
    rows = classify(served, with_context(GRADED[1], 3000)).result.classifications
    assert [[found.score for found in row.classes] for row in rows] == ROWS[1:] * 3000
    for context in (example(x=[1.0] * 4000), example(tag=[b"a" * 30_000])):
        code, said = refused(lambda given=context: classify(served, with_context(given, 8000)))  # type: ignore[misc]
        assert (code, "the context has" in said) == ("INVALID_ARGUMENT", True), said


def of_fit(fit_model: Path, rows: Any) -> list[float]:
    weights = np.load(fit_model / "weights.npz")
    found: list[float] = (np.float32(rows) @ weights["w"] + weights["b"]).ravel().tolist()
    return found


def test_values_by_regress_and_both_at_once(served: RunningServer, fit_model: Path) -> None:
    row = [float(number) for number in range(13)]
    given = examples(example(x=row), example(x=[1] * 13))
    expected = pytest.approx(of_fit(fit_model, [row, [1] * 13]), rel=1e-5)
    answer = regress(served, named("RegressionRequest")(model_spec={"name": "fit"}, input=given))
    assert [found.value for found in answer.result.regressions] == expected
    assert answer.model_spec.version.value == 1
    tasks = [{"model_spec": {"name": "fit"}, "method_name": method} for method in (REGRESS, CLASSIFY)]
    results = multi(served, named("MultiInferenceRequest")(tasks=tasks, input=given)).results
    assert [found.WhichOneof("result") for found in results] == ["regression_result", "classification_result"]
    assert [found.value for found in results[0].regression_result.regressions] == expected
    [first, _] = results[1].classification_result.classifications
    assert [(found.label, found.score) for found in first.classes] == [("0", expected.expected[0])]
    assert {found.model_spec.version.value for found in results} == {1}
    assert not multi(served, named("MultiInferenceRequest")(input=given)).results


BAD_EXAMPLES: dict[str, tuple[dict[str, Any], str]] = {
    "no input": ({}, "Input is empty"),
    "no examples": (examples(), "Input is empty"),
    "without a feature": (
        examples(GRADED[0], example(x=[1, 2], count=[1], tag=[b""])),
        "Example 1, Feature: sure (data type: bool) is required but could not be found.",
    ),
    "other type": (
        examples(example(x=[1, 2], count=[1.5], sure=[1], tag=[b""])),
        "Key: count. Data types don't match. Data type: float but expected type: int64",
    ),
    "other kind": (
        examples(example(x=[b"1", b"2"], count=[1], sure=[1], tag=[b""])),
        "Key: x. Data types don't match. Data type: string but expected type: float",
    ),
    "of different lengths": (
        examples(GRADED[0], example(x=[1.0], count=[1], sure=[1], tag=[b""])),
        "Feature: x: Encountered list at unexpected size: 1",
    ),
    "too long": (
        examples(example(x=[1, 2, 3], count=[1], sure=[1], tag=[b""])),
        "unexpected shape for input 'x' for model 'grader'. Expected [-1,2], got [1,3]",
    ),
}


@pytest.mark.parametrize("name", BAD_EXAMPLES)
def test_bad_examples(served: RunningServer, name: str) -> None:
    given, words = BAD_EXAMPLES[name]
    code, said = refused(lambda: classify(served, request("ClassificationRequest", given)))
    assert code == "INVALID_ARGUMENT"
    assert said.startswith(words)


def task(method: str = CLASSIFY, **spec: Any) -> dict[str, Any]:
    return {"model_spec": {"name": "grader", **spec}, "method_name": method}


def tasks(*given: Any) -> Any:
    return named("MultiInferenceRequest")(tasks=given, input=examples(*GRADED))


INVALID, NOT_FOUND = "INVALID_ARGUMENT", "NOT_FOUND"
NAMED = named("GetModelMetadataRequest")(metadata_field=["signature_def"])
BAD: dict[str, tuple[str, str, Any, str, str]] = {
    "regress of three": (
        *("Regress", "RegressionResponse", request("RegressionRequest", examples(*GRADED))),
        *(INVALID, "output 'scores' has shape [2, 3]: regress needs one number for each example."),
    ),
    "classify nobody": (
        *("Classify", "ClassificationResponse", request("ClassificationRequest", examples(), name="nobody")),
        *(NOT_FOUND, "Servable not found for request: Latest(nobody)"),
    ),
    "another signature": (
        *("Regress", "RegressionResponse", request("RegressionRequest", examples(), signature_name="regress_x")),
        *("FAILED_PRECONDITION", 'Serving signature key "regress_x" not found.'),
    ),
    "task without a name": (
        *("MultiInference", "MultiInferenceResponse", tasks(task(name=""))),
        *(INVALID, "Found ModelSpec with an empty model name."),
    ),
    "tasks of two models": (
        *("MultiInference", "MultiInferenceResponse", tasks(task(), task(REGRESS, name="fit"))),
        *(INVALID, "All ModelSpecs in a MultiInferenceRequest must access the same model name."),
    ),
    "a task twice": (
        *("MultiInference", "MultiInferenceResponse", tasks(task(), task())),
        *(INVALID, "Duplicate evaluation of signature: serving_default"),
    ),
    "another signature in a task": (
        *("MultiInference", "MultiInferenceResponse", tasks(task(), task(REGRESS, signature_name="regress_x"))),
        *(INVALID, "Requested signature not found in model graph: regress_x"),
    ),
    "a task that predicts": (
        *("MultiInference", "MultiInferenceResponse", tasks(task("tensorflow/serving/predict"))),
        *("UNIMPLEMENTED", "Unsupported signature method_name: tensorflow/serving/predict"),
    ),
    "no model_spec": (*("GetModelMetadata", "GetModelMetadataResponse", NAMED, INVALID, "Missing ModelSpec"),),
    "no metadata_field": (
        *("GetModelMetadata", "GetModelMetadataResponse"),
        *(named("GetModelMetadataRequest")(model_spec={"name": "fit"}), INVALID),
        "GetModelMetadataRequest must specify at least one metadata_field",
    ),
    "other metadata_field": (
        *("GetModelMetadata", "GetModelMetadataResponse"),
        *(named("GetModelMetadataRequest")(model_spec={"name": "fit"}, metadata_field=["graph"]), INVALID),
        "Metadata field graph is not supported",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said(served: RunningServer, name: str) -> None:
    method, answer, message, code, words = BAD[name]
    found, said = refused(lambda: ask(served, method, message, answer))
    assert (found, said[: len(words)]) == (code, words)


def states(server: RunningServer, **spec: Any) -> Any:
    message = named("GetModelStatusRequest")(model_spec=spec)
    return ask(server, "GetModelStatus", message, "GetModelStatusResponse", MODELS).model_version_status


def test_states_of_versions(served: RunningServer) -> None:
    for spec in ({}, {"version": {"value": 1}}, {"version_label": "whatever"}):
        [found] = states(served, name="fit", **spec)
        assert (found.version, found.state, found.status.error_code, found.status.error_message) == (1, 30, 0, "")
    assert refused(lambda: states(served, name="nobody")) == (
        "NOT_FOUND",
        "Could not find any versions of model nobody",
    )
    assert refused(lambda: states(served, name="fit", version={"value": 2})) == (
        "NOT_FOUND",
        "Could not find version 2 of model fit",
    )
    assert refused(lambda: states(served))[1] == "ModelSpec has no name specified."


def reload(server: RunningServer, **config: Any) -> Any:
    message = named("ReloadConfigRequest")(config=config)
    return ask(server, "HandleReloadConfigRequest", message, "ReloadConfigResponse", MODELS)


def test_reload_without_a_model_config_list(served: RunningServer) -> None:
    code, said = refused(lambda: reload(served))
    assert (code, said.split(".")[0]) == (INVALID, "ServerModelConfig type not supported by HandleReloadConfigRequest")
    code, said = refused(lambda: reload(served, model_config_list={"config": [{"name": "m", "base_path": "/m"}]}))
    assert code == "FAILED_PRECONDITION"
    assert "model_config_list" in said
