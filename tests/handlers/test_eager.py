"""Models as Python code with weights: one Layer class and a .pdparams file."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from pdserver.errors import LoadFailed
from tests.conftest import Lent
from tests.handlers.conftest import Load, paddle
from tests.handlers.pictures import plain
from tests.handlers.requests import answer, body, json, refusal

NET = """
import paddle
from paddle import nn

class Net(nn.Layer):
    def __init__(self, width=4):
        super().__init__()
        self.hidden, self.last, self.dropout = nn.Linear(3, width), nn.Linear(width, 2), nn.Dropout(0.5)

    def forward(self, x, gate):
        y = self.last(self.dropout(nn.functional.relu(self.hidden(x))) * gate)
        return y, y.argmax(1)
"""
INPUTS = [{"name": "x", "shape": [-1, 3]}, {"name": "gate", "shape": [-1, 1]}]
ROWS = np.random.default_rng(8).standard_normal((4, 3)).astype(np.float32)
_numbers = count()


@pytest.fixture
def weights() -> dict[str, NDArray[Any]]:
    return made(4)


def made(width: int) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(width)
    shapes = {"hidden.weight": (3, width), "hidden.bias": (width,), "last.weight": (width, 2), "last.bias": (2,)}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def saved(folder: Path, weights: dict[str, NDArray[Any]], source: str = NET) -> dict[str, Any]:
    """Arguments for packing; each file has its own name, because all are imported into this one process."""
    number = next(_numbers)
    code, params = folder / f"net{number}.py", folder / f"net{number}.pdparams"
    code.write_text(source)
    paddle.save({name: paddle.to_tensor(array) for name, array in weights.items()}, str(params))
    return {"model": params, "model_file": code}


def expected(weights: dict[str, NDArray[Any]], rows: NDArray[Any], gate: float) -> NDArray[Any]:
    hidden = np.maximum(rows @ weights["hidden.weight"] + weights["hidden.bias"], 0) * gate
    result: NDArray[Any] = hidden @ weights["last.weight"] + weights["last.bias"]
    return result


def test_it_runs_as_exported_models_do(load: Load, tmp_path: Path, weights: dict[str, NDArray[Any]]) -> None:
    config = {"eager": {"inputs": INPUTS, "outputs": ["y", "best"]}}
    service = load(**saved(tmp_path, weights), config=config)
    outcomes = service.run([json({"x": row, "gate": [0.5]}) for row in ROWS] + [json({"x": ROWS[0]})])
    for outcome, row in zip(outcomes, ROWS, strict=False):
        y = expected(weights, row, 0.5)
        np.testing.assert_allclose(answer(outcome)["y"], y, rtol=1e-5)
        assert answer(outcome)["best"] == y.argmax()
    assert refusal(outcomes[-1]).startswith('invalid: input "gate" is missing')


def test_arguments_names_and_one_layer_of_several(load: Load, tmp_path: Path) -> None:
    source = NET + "\nclass Other(nn.Layer):\n    pass\n"
    weights = made(7)
    config = {"eager": {"inputs": INPUTS, "layer": "Net", "arguments": {"width": 7}}}
    (found,) = load(**saved(tmp_path, weights, source), config=config).run([json({"x": ROWS[0], "gate": [1]})])
    np.testing.assert_allclose(answer(found)["output_0"], expected(weights, ROWS[0], 1), rtol=1e-5)


def test_with_a_built_in_handler(load: Load, tmp_path: Path) -> None:
    source = (
        "import paddle\n"
        "class Colours(paddle.nn.Layer):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.gain = self.create_parameter([1])\n"
        "    def forward(self, image):\n"
        "        return paddle.nn.functional.adaptive_avg_pool2d(image, 1).flatten(1) * self.gain\n"
    )
    config = {
        "eager": {"inputs": [{"name": "image", "shape": [-1, 3, -1, -1]}]},
        "image": {"resize": None, "crop": None, "mean": [0], "std": [1], "softmax": False},
    }
    service = load(
        **saved(tmp_path, {"gain": np.array([0.5], np.float32)}, source), handler="image_classifier", config=config
    )
    (found,) = service.run([body(plain(255, 51, 0))])
    assert answer(found) == {"0": 0.5, "1": pytest.approx(0.1, rel=1e-3), "2": 0}


@pytest.mark.parametrize(
    ("eager", "source", "message"),
    [
        (None, NET, "eager.inputs: a model as Python code does not say what it takes"),
        ({"inputs": [{"name": "x"}]}, NET, "eager.inputs: .*missing required field `shape`"),
        ({"inputs": INPUTS, "outputs": ["y"]}, NET, "eager.outputs: 1 names for the 2 outputs of the model"),
        ({"inputs": INPUTS, "outputs": ["y", "y"]}, NET, "'y' would be the name of"),
        ({"inputs": INPUTS, "arguments": {"width": 5}}, NET, "hidden.weight"),
        ({"inputs": INPUTS}, NET + "class B(nn.Layer): pass", "expected one paddle.nn.Layer, found Net, B"),
        ({"inputs": INPUTS, "layer": "Nat"}, NET, "eager.layer: Nat: no such paddle.nn.Layer in .*did you mean Net"),
        ({"inputs": INPUTS}, "x = 1", "expected one paddle.nn.Layer, found none"),
        ({"inputs": INPUTS}, NET.replace("last", "final"), "last.weight is unknown"),
        ({"inputs": INPUTS}, NET.replace("return y,", "return y + len(no_such_name),"), "cannot be converted"),
        ({"inputs": INPUTS}, "import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Skip loading:UserWarning")
def test_what_cannot_be_loaded(
    load: Load, tmp_path: Path, weights: dict[str, NDArray[Any]], eager: Any, source: str, message: str
) -> None:
    with pytest.raises(LoadFailed, match=message):
        load(**saved(tmp_path, weights, source), config={"eager": eager} if eager else {})


def test_no_precision_is_chosen_without_a_trial(load: Load, tmp_path: Path, weights: dict[str, NDArray[Any]]) -> None:
    config = {"eager": {"inputs": INPUTS}, "predictor": {"precision": "auto"}}
    with pytest.raises(LoadFailed, match=r"precision: auto: .* none is made of this model, which is Python code"):
        load(**saved(tmp_path, weights), config=config)


def test_on_a_server(lent: Lent, tmp_path: Path, weights: dict[str, NDArray[Any]]) -> None:
    packed = saved(tmp_path, weights)
    config = yaml.safe_dump({"eager": {"inputs": INPUTS}})
    server = lent("base_handler", "eager", config, serialized_file=packed["model"], model_file=packed["model_file"])
    found = server.predict("eager", json={"x": ROWS[0].tolist(), "gate": [1.0]}).json()
    np.testing.assert_allclose(found["output_0"], expected(weights, ROWS[0], 1), rtol=1e-5)
