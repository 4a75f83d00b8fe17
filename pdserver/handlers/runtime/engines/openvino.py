"""A model as OpenVINO loads and runs it, on the CPU."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino

from pdserver.errors import InvalidRequest, LoadFailed
from pdserver.formats.elements import rounded, widened
from pdserver.handlers.runtime.engines.base import Candidate, kept_operations
from pdserver.handlers.runtime.rows import Array, Arrays

_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "int8": "f32"}
"""Operations of a quantized model run in int8 whatever the hint is."""
_MOST_SHAPES = 4096


class _Shapes:
    """Whether a model's operations take inputs of given shapes.

    Compiled models don't ask: a matrix multiplication reads beyond inputs that are too short for it. `Model.reshape`
    does.
    """

    def __init__(self, model: Any, places: Collection[int]) -> None:
        self._model, self._places = model, places
        self._known: set[tuple[tuple[int, ...], ...]] = set()

    def check(self, arrays: Iterable[Array]) -> None:
        """Raises InvalidRequest for shapes that don't fit. `arrays` have the order of `places`."""
        shapes = tuple([array.shape for array in arrays])
        if shapes in self._known:
            return
        try:
            self._model.reshape(dict(zip(self._places, map(openvino.PartialShape, map(list, shapes)), strict=True)))
        except RuntimeError as error:
            said = " and ".join(str(list(shape)) for shape in shapes)
            raise InvalidRequest(f"the model cannot run with inputs of shape {said}: {_reason(error)}") from None
        if len(self._known) >= _MOST_SHAPES:
            self._known.clear()
        self._known.add(shapes)


@dataclass
class OpenVinoModel:
    """A compiled model's request, and the places of its inputs and outputs, by their public names."""

    request: Any
    inputs: dict[str, int]
    outputs: dict[str, int]
    shapes: _Shapes | None
    """None for a model whose inputs leave no axis open but the first."""

    def run(self, inputs: Arrays) -> Arrays:
        """As Engine says. Raises InvalidRequest for shapes that the model's operations can't take."""
        if self.shapes is not None:
            self.shapes.check(inputs[name] for name in self.inputs)
        for name, place in self.inputs.items():
            _fill(self.request.get_input_tensor(place), inputs[name])
        self.request.infer()
        return {name: _copy(self.request.get_output_tensor(place)) for name, place in self.outputs.items()}

    def close(self) -> None:
        """As Engine says."""
        self.request = self.shapes = None


def load(candidate: Candidate, threads: int, shapes: int = 0) -> OpenVinoModel:
    """`shapes`: so many of the inputs will come again; 0: nobody knows.

    Raises whatever OpenVINO raises for a model that it cannot load, LoadFailed for a signature that is not the model's,
    and where it would compute in another precision.
    """
    core = openvino.Core()
    weights = candidate.params_file
    model = core.read_model(str(candidate.model_file), *([str(weights)] if weights else []))
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # every worker would pin its thread to the same core
            "INFERENCE_PRECISION_HINT": _HINTS[candidate.precision],  # else bf16 by itself where the CPU has it
            "CPU_RUNTIME_CACHE_CAPACITY": kept_operations(len(model.get_ops()), shapes),  # 5000 by itself
        },
    )
    taken = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if taken != _HINTS[candidate.precision]:
        raise LoadFailed(f"OpenVINO computes in {taken} on this CPU, not in {candidate.precision}")
    signature = candidate.signature
    inputs, outputs = _places(compiled.inputs), _places(compiled.outputs)
    for spec, found in [(each, inputs) for each in signature.inputs] + [(each, outputs) for each in signature.outputs]:
        if spec.source not in found:
            raise LoadFailed(f'"{spec.source}" is not among what OpenVINO finds in it: {", ".join(sorted(found))}')
    places = {spec.name: inputs[spec.source] for spec in signature.inputs}
    is_open = any(dim.is_dynamic for port in model.inputs for dim in list(port.get_partial_shape())[1:])
    return OpenVinoModel(
        compiled.create_infer_request(),
        places,
        {spec.name: outputs[spec.source] for spec in signature.outputs},
        _Shapes(model, places.values()) if is_open else None,
    )


def _places(ports: Any) -> dict[str, int]:
    """A port may have several names."""
    return {name: place for place, port in enumerate(ports) for name in port.get_names()}


def _reason(error: RuntimeError) -> str:
    """The last line of what OpenVINO says: those before name its own sources."""
    return (str(error).strip().splitlines() or [""])[-1]


def _fill(tensor: Any, array: Array) -> None:
    if tuple(tensor.shape) != array.shape:
        tensor.shape = array.shape
    if tensor.element_type == openvino.Type.bf16:
        tensor.data.view(np.uint16)[...] = rounded(array)
    else:
        tensor.data[...] = array


def _copy(tensor: Any) -> Array:
    if tensor.element_type == openvino.Type.bf16:
        return widened(tensor.data.view(np.uint16))
    return np.array(tensor.data)
