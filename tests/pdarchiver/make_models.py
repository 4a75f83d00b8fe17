"""Saves real Paddle models into the folder argv[1], runs each once, and writes what the predictor said to facts.json.

Run as a process of its own; with FLAGS_enable_pir_api=0 in the environment it saves .pdmodel files instead of PIR.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, inference, nn
from paddle.static import InputSpec
from paddle.static import io as static_io

FOLDER = Path(sys.argv[1])
LENGTH = 8  # stands for each -1 in an input's shape


class Linear(nn.Layer):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(13, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class Convolution(nn.Layer):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2D(3, 4, 3), nn.BatchNorm2D(4), nn.ReLU(), nn.Dropout())
        self.head = nn.Linear(4, 5)

    def forward(self, image: Tensor) -> Tensor:
        return nn.functional.softmax(self.head(self.body(image).mean([2, 3])))


class Many(nn.Layer):  # type: ignore[misc]
    """Several inputs and outputs, of several types, in an order that is not alphabetical."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, words: Tensor, mask: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        found = self.table(words) * scale
        small = paddle.cast(found, "float16")
        return paddle.mean(found, axis=-1), (words > 3) & mask, words * 2, small


class Recurrent(nn.Layer):  # type: ignore[misc]
    """Has a parameter that is not persistable, and so not among the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


class WithoutParameters(nn.Layer):  # type: ignore[misc]
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


MODELS: dict[str, tuple[Any, list[InputSpec]]] = {
    "linear": (Linear(), [InputSpec([None, 13], "float32", "x")]),
    "convolution": (Convolution(), [InputSpec([None, 3, None, None], "float32", "image")]),
    "many": (
        Many(),
        [
            InputSpec([None, None], "int64", "words"),
            InputSpec([None, None], "bool", "mask"),
            InputSpec([1], "float32", "scale"),
        ],
    ),
    "plain": (WithoutParameters(), [InputSpec([None, 2], "float32", "a"), InputSpec([2], "float32", "b")]),
}


if paddle.get_flags("FLAGS_enable_pir_api")["FLAGS_enable_pir_api"]:  # Paddle 3.3 cannot save it in the old form
    MODELS["recurrent"] = (Recurrent(), [InputSpec([None, 2, 4], "float32", "x")])


def save_models() -> None:
    for name, (layer, spec) in MODELS.items():
        layer.eval()
        paddle.jit.save(paddle.jit.to_static(layer, input_spec=spec, full_graph=True), str(FOLDER / name))


def save_static() -> dict[str, list[InputSpec]]:
    """The other way to save: static.save_inference_model, here with the outputs in an order of our own."""
    paddle.enable_static()
    program = paddle.static.Program()
    with paddle.static.program_guard(program):
        z = paddle.static.data("z", [-1, 4], "float32")
        a = paddle.static.data("a", [-1, 4], "float32")
        outputs = [paddle.scale(a, 2.0), paddle.static.nn.fc(z, 3)]
        executor = paddle.static.Executor()
        executor.run(paddle.static.default_startup_program())
        paddle.static.save_inference_model(str(FOLDER / "static"), [z, a], outputs, executor, program=program)
    return {"static": [InputSpec([-1, 4], "float32", "z"), InputSpec([-1, 4], "float32", "a")]}


def save_lengths() -> None:
    """An input with lengths (LoD), which only the old form has."""
    program = paddle.static.Program()
    with paddle.static.program_guard(program):
        words = paddle.static.data("words", [-1, 4], "float32")
        words.desc.set_lod_level(1)
        doubled = paddle.scale(words, 2.0)
        executor = paddle.static.Executor()
        paddle.static.save_inference_model(str(FOLDER / "lengths"), [words], [doubled], executor, program=program)


def save_separately() -> None:
    """The parameters of `linear`, each in a file of its own, as Paddle 1.x saved them."""
    executor = paddle.static.Executor()
    program, _, _ = paddle.static.load_inference_model(str(FOLDER / "linear"), executor)
    (FOLDER / "separate").mkdir()
    static_io.save_vars(executor, str(FOLDER / "separate"), program, predicate=static_io.is_persistable)


def save_types() -> None:
    """An input and an output of each type; too much for ProgramDesc's checks, so PIR only."""
    program = paddle.static.Program()
    floats = ["float16", "bfloat16", "float32", "float64"]
    taken = ["bool", "int8", "uint8", "int16", "int32", "int64", *floats]
    given = [*taken, "complex64", "complex128", "float8_e4m3fn"]
    with paddle.static.program_guard(program):
        inputs = [paddle.static.data(f"in_{dtype}", [2, 3], dtype) for dtype in taken]
        outputs = [paddle.cast(tensor, "float32") for tensor in inputs]
        outputs += [paddle.cast(inputs[taken.index("float32")], dtype) for dtype in given]
        executor = paddle.static.Executor()
        paddle.static.save_inference_model(str(FOLDER / "types"), inputs, outputs, executor, program=program)


def run(name: str, specs: list[InputSpec]) -> dict[str, Any]:
    """What the predictor says of a saved model: names of inputs, and name, shape and type of outputs after a run."""
    model = next(FOLDER / f"{name}{end}" for end in (".json", ".pdmodel") if (FOLDER / f"{name}{end}").exists())
    params = model.with_suffix(".pdiparams")
    config = inference.Config(str(model), str(params) if params.exists() else "")
    config.disable_glog_info()
    config.disable_mkldnn()
    predictor = inference.create_predictor(config)
    inputs = predictor.get_input_names()
    for spec in specs:
        shape = [LENGTH if length in (None, -1) else length for length in spec.shape]
        dtype = str(spec.dtype).removeprefix("paddle.").removeprefix("VarType.")
        dtype = {"FP32": "float32", "INT64": "int64", "BOOL": "bool"}.get(dtype, dtype)
        predictor.get_input_handle(spec.name).copy_from_cpu(np.ones(shape, dtype))
    predictor.run()
    outputs = []
    for output in predictor.get_output_names():
        handle = predictor.get_output_handle(output)
        outputs.append([output, list(handle.shape()), handle.type().name.lower()])
    return {"inputs": inputs, "outputs": outputs}


save_models()
specs = {name: spec for name, (_, spec) in MODELS.items()} | save_static()
if paddle.framework.in_pir_mode():
    save_types()
else:
    save_lengths()
    save_separately()
(FOLDER / "facts.json").write_text(json.dumps({name: run(name, spec) for name, spec in specs.items()}))
