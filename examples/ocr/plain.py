"""The same models and functions in one process, without a server: a page at a time, a line at a time.

It is what the pipeline's answers and its speed are compared with.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import steps
from numpy.typing import NDArray


class Plain:
    """`folder` is what fetch.py has filled. `together`: the lines of a page that are equally wide share a run.
    `load_model` loads a model from its folder."""

    def __init__(self, folder: Path, together: bool = False, load_model: Callable[[Path], Model] | None = None) -> None:
        self._together = together
        self._detect, self._classify, self._recognise = (
            (load_model or load)(folder / name) for name in ("det", "cls", "rec")
        )
        self._characters = steps.read_characters(folder / "characters.txt")

    def read(self, data: bytes) -> dict[str, Any]:
        """The pipeline's `result` for a page."""
        image = steps.decode(data)
        boxes = steps.boxes_in(self._detect.run(steps.for_detection(image)), image)
        crops = [np.ascontiguousarray(steps.cut_out(image, box)) for box in boxes]
        directions = self._run(self._classify, [steps.face(crop) for crop in crops])
        made = [steps.upright(crop, direction) for crop, direction in zip(crops, directions, strict=True)]
        found = self._run(self._recognise, [line for line, _ in made])
        read = [
            (number, steps.text_of(chances[0].argmax(axis=1), chances[0].max(axis=1), self._characters))
            for number, chances in enumerate(found)
        ]
        return dict(steps.result(image.shape[:2], boxes, [turned for _, turned in made], read))

    def _run(self, model: Model, inputs: list[NDArray[Any]]) -> list[NDArray[Any]]:
        return run_together(model, inputs) if self._together else [model.run(each) for each in inputs]


class Model:
    def __init__(self, predictor: Any) -> None:
        self._predictor = predictor
        self._input = predictor.get_input_handle(predictor.get_input_names()[0])
        self._output = predictor.get_output_handle(predictor.get_output_names()[0])

    def run(self, values: NDArray[Any]) -> NDArray[Any]:
        self._input.copy_from_cpu(values)
        self._predictor.run()
        output: NDArray[Any] = self._output.copy_to_cpu()
        return output


def load(folder: Path) -> Model:
    """As the server sets Paddle up: oneDNN, and one thread."""
    from paddle import inference

    config = inference.Config(str(folder / "inference.pdmodel"), str(folder / "inference.pdiparams"))
    config.disable_gpu()
    config.disable_glog_info()
    config.enable_mkldnn()
    config.enable_memory_optim()
    config.set_cpu_math_library_num_threads(1)
    return Model(inference.create_predictor(config))


def run_together(model: Model, inputs: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Those of equal shapes in one run."""
    answers: dict[int, NDArray[Any]] = {}
    for shape in {each.shape for each in inputs}:
        alike = [number for number, each in enumerate(inputs) if each.shape == shape]
        output = model.run(np.concatenate([inputs[number] for number in alike]))
        answers |= {number: output[i : i + 1] for i, number in enumerate(alike)}
    return [answers[number] for number in range(len(inputs))]


def main() -> None:
    parser = argparse.ArgumentParser(description="Read a page without a server.")
    parser.add_argument("page", type=Path)
    parser.add_argument("--models", type=Path, default=Path("build/ocr"), help="folder (%(default)s)")
    given = parser.parse_args()
    print(json.dumps(Plain(given.models).read(given.page.read_bytes()), ensure_ascii=False))


if __name__ == "__main__":
    main()
