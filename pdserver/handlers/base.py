"""The handler that serves any model with tensors, and the base class of others."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from pdarchiver import manifest
from pdserver.errors import HandlerFailed, InvalidRequest
from pdserver.handlers.context import Context
from pdserver.handlers.runtime import batching, labels, sections
from pdserver.handlers.runtime.answers import PredictionException
from pdserver.handlers.runtime.batching import Batching, InterfaceSettings
from pdserver.handlers.runtime.inputs import InputReader, Place
from pdserver.handlers.runtime.model_input import check_ids
from pdserver.handlers.runtime.parts import opened
from pdserver.handlers.runtime.rows import Array, Arrays, Rows, as_array, run_by_shape, run_one_by_one
from pdserver.types import Interface, Port

if TYPE_CHECKING:
    from pdserver.handlers.runtime.chain import Chain
    from pdserver.handlers.runtime.predictor import Predictor

_ARRAYS_ALONE = frozenset({np.ndarray})

__all__ = ["Array", "Arrays", "BaseHandler", "PredictionException", "Rows", "send_intermediate_predict_response"]


def send_intermediate_predict_response(
    ret: list[Any], req_id_map: dict[int, str] | None, message: str, code: int, context: Context
) -> None:
    """TorchServe's way to say `context.send_intermediate(ret)`. `message` and `code` are the status of the answers."""
    if code != 200:
        context.set_all_response_status(code, message)
    context.send_intermediate(ret)


class BaseHandler:
    """Requests → preprocess → inference → postprocess → answers, with named arrays between them.

    As it is, this is the built-in `base_handler`. Override any of the three steps; arrays go by the model's public
    names and have the batch along their first axis. Rows of different shapes never share a run of the model.
    """

    context: Context
    """Of the current batch."""
    predictor: Predictor | Chain
    signature: manifest.Signature
    batching = Batching()
    """What is known of the model's rows, once it is loaded."""
    usual_target: Any = None
    """The class to explain if the request names none; None: the likeliest class."""
    places: Sequence[Place] = ()
    """For each request, where its rows are: an index, a slice, or the exception that this request fails with. One row
    for each request unless `preprocess` says otherwise."""

    def initialize(self, context: Context) -> None:
        """Load the model that the manifest names.

        Raises ArchiveUnusable when there is none, or no signature; ConfigError for wrong settings of the predictor.
        """
        self.context = context
        # Imported here, so that a handler with its own engine works without paddle.
        from pdserver.handlers.runtime import model

        self.predictor, self.signature = model.load(context)
        self.batching = batching.of_model(context, self.predictor, self.signature)
        batching.allow(context.allowed_batch_sizes, self.batching, self.predictor)
        batching.fill(self.batching, self.predictor)

    def takes_arrays(self) -> bool:
        """Whether `data` of `handle` may have arrays in place of .npy files. It may if no subclass reads it."""
        steps = ("handle", "preprocess")
        return not any(step in vars(self) or getattr(type(self), step) is not vars(BaseHandler)[step] for step in steps)

    def reads_as_built_in(self) -> bool:
        """Whether a class of the server reads the requests."""
        steps = (getattr(type(self), step) for step in ("handle", "preprocess"))
        return not any(step in vars(self) for step in ("handle", "preprocess")) and all(
            step.__module__.startswith("pdserver.") for step in steps
        )

    def preprocess(self, data: list[dict[str, Any]]) -> Arrays:
        """The model's inputs, of shape [rows, …], from the requests' values by name.

        One that overrides it may return lists or tensors in place of arrays, and one of them alone where the model has
        one input.
        """
        inputs, self.places = self.reader.read(data)
        return inputs

    def inference(self, inputs: Arrays) -> Arrays:
        """The model's outputs, of shape [rows, …], from what `preprocess` may return.

        Raises HandlerFailed for what the model does not take, InvalidRequest for numbers that are not those of an
        embedding's rows.
        """
        arrays = self._by_name(inputs)
        try:
            return self._by_shape(arrays)
        except ValueError:
            run_by_shape(self._with_known_ids, arrays)  # its message says more than Paddle's
            raise

    def postprocess(self, outputs: Arrays) -> Sequence[Any]:
        """One answer for each row; here, the row of each output by name."""
        return Rows(outputs)

    def handle(self, data: list[dict[str, Any]], context: Context) -> list[Any]:
        """One answer for each request, or the exception that it fails with."""
        self._begin(context, len(data))
        if self._is_describe():
            return [self.describe_handle()] * len(data)
        if self.batching.first_axis != "batch" and not self._is_explain() and not self._knows_rows():
            return [self._alone(row, idx) for idx, row in enumerate(data)]
        inputs = self.preprocess(data)
        if self._is_explain():
            return self.explain_handle(inputs, data)
        if self.places == range(len(data)):
            return list(self.postprocess(self.inference(inputs)))
        failed = [place for place in self.places if isinstance(place, Exception)]
        if len(failed) == len(data):
            return failed
        answers = self.postprocess(self.inference(inputs))
        rows = _rows(inputs)
        if len(answers) != rows:
            raise HandlerFailed(f"handler returned {len(answers)} answers for {rows} rows")
        return [place if isinstance(place, Exception) else answers[place] for place in self.places]

    def _knows_rows(self) -> bool:
        """Whether the handler itself assigns the model's rows to requests."""
        return type(self).postprocess is not BaseHandler.postprocess

    def _alone(self, row: Any, idx: int) -> Any:
        """The answer to one request, or the exception that it fails with."""
        with self.context.opened([idx]):
            self.places = range(1)
            try:
                return self._answer_alone(row)
            except Exception as error:  # noqa: BLE001 - of this request alone
                return error

    def _answer_alone(self, row: Any) -> Any:
        as_it_is = self.batching.first_axis == "other"
        if as_it_is and type(self).preprocess is BaseHandler.preprocess:
            return self.inference(self.reader.whole(row))
        inputs = self.preprocess([row])
        self.raise_first()
        outputs = self.inference(inputs)
        if as_it_is:
            return outputs
        answers, rows = self.postprocess(outputs), _rows(inputs)
        if len(answers) != rows:
            raise HandlerFailed(
                f"expected {rows} rows of each output, got {len(answers)}: if the first axis is not the batch, say so "
                "in the model's config file: interface: {batched: false}"
            )
        return answers[self.places[0]]  # type: ignore[index]  # it is no exception

    def run_rows(self, inputs: Arrays, *needed: str) -> Arrays:
        """`inference` for callers that need row i of the outputs `needed` to belong to row i of the inputs.

        All rows run together when that is known to be so, else one by one. Raises HandlerFailed for outputs that are
        not a row for each row.
        """
        together = all(map(self.batching.are_rows, needed))
        inputs = self._by_name(inputs)
        outputs = self._by_shape(inputs) if together else run_one_by_one(self.predictor.run, inputs)
        rows = _rows(inputs)
        for name in needed:
            if outputs[name].shape[:1] != (rows,):
                shape = list(outputs[name].shape)
                raise HandlerFailed(f'expected {rows} rows of the output "{name}"; the model\'s is {shape}')
        return outputs

    def interface(self) -> Interface:
        """What typed requests give and get: the model's own inputs and outputs."""
        settings = sections.read(InterfaceSettings, "interface", self.context.model_yaml_config)
        sides = (self.signature.inputs, self.signature.outputs)
        batched = self.batching.first_axis == "batch"
        inputs, outputs = ([_port(spec, batched=batched) for spec in side] for side in sides)
        names = labels.read(Path(self.context.system_properties["model_dir"]), None).known
        if outputs and names:
            outputs[0] = msgspec.structs.replace(outputs[0], labels=names)
        for i, port in enumerate(outputs):
            if port.name in settings.labels:
                named = {index: name for index, name in enumerate(settings.labels[port.name]) if name}
                outputs[i] = msgspec.structs.replace(port, labels=named)
        return Interface(inputs, outputs, batched)

    def handle_tensors(self, inputs: Arrays) -> Arrays:
        """The outputs for typed requests, whose rows are together in `inputs`, by the names of `interface`.

        Raises InvalidRequest for an input without elements, which Paddle can't run, and for numbers that are not those
        of an embedding's rows.
        """
        for name, array in inputs.items():
            if not array.size:
                raise InvalidRequest(f'input "{name}" has no elements: shape {list(array.shape)}: send at least one')
        return self.inference(self._with_known_ids(inputs))

    def _by_shape(self, inputs: Arrays) -> Arrays:
        """What the model gives; rows run together that have one shape, or have it once they are filled up."""
        filled = self.batching.padding
        together = run_by_shape if filled is None else filled.run_rows
        return together(self.predictor.run, inputs)

    def _with_known_ids(self, inputs: Arrays) -> Arrays:
        """Raises InvalidRequest for numbers that are not those of an embedding's rows."""
        for name, below in self.batching.ids_below.items():
            check_ids(name, inputs[name], below)
        return inputs

    def explain_handle(self, data_preprocess: Any, raw_data: list[dict[str, Any]]) -> list[Any]:
        """One explanation for each request of a batch, or the exception that it fails with."""
        answers: list[Any] = []
        places = self.places if len(self.places) == len(raw_data) else range(len(raw_data))
        for idx, (given, place) in enumerate(zip(raw_data, places, strict=True)):
            row = given if isinstance(given, dict) else {"body": given}  # out of an envelope, it is any JSON value
            values = {name: value for name, value in row.items() if name != "target"}
            raw = next(iter(values.values())) if len(values) == 1 else values
            target = row.get("target", said.get("target") if isinstance(said := opened(raw), dict) else None)
            target = self.usual_target if target is None else target
            try:
                if isinstance(place, Exception):
                    raise place
                found = self.get_insights(self._of_one(data_preprocess, place, raw_data, idx), raw, target)
                answers.append(found[0] if isinstance(place, int) else found)
            except (InvalidRequest, PredictionException) as error:
                answers.append(error)
        return answers

    def get_insights(self, tensor_data: Any, raw_data: Any, target: Any) -> list[Any]:
        """Why the model answers as it does: an explanation for each row of `tensor_data`, which is what `preprocess`
        made of `raw_data`. `target` is the class to explain, as the request names it, or `usual_target`.
        """
        raise PredictionException(f"{type(self).__name__} explains nothing: it has no method get_insights", 501)

    def describe_handle(self) -> Any:
        """What the model says of itself; here, its inputs and outputs, of one that was loaded by `initialize`."""
        if not hasattr(self, "signature"):
            return None
        sides = {"inputs": self.signature.inputs, "outputs": self.signature.outputs}
        return {
            side: [{"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)} for spec in specs]
            for side, specs in sides.items()
        }

    def _of_one(self, inputs: Any, place: int | slice, data: list[dict[str, Any]], idx: int) -> Any:
        """What `preprocess` makes of the request `idx` alone, out of what it made of all of them."""
        if isinstance(inputs, dict) and all(isinstance(array, np.ndarray) for array in inputs.values()):
            one = slice(place, place + 1) if isinstance(place, int) else place
            return {name: array[one] for name, array in inputs.items()}
        if len(data) == 1:
            return inputs
        with self.context.opened([idx]):  # only the handler can split a type of its own
            self.places = range(1)
            own = self.preprocess([data[idx]])
            self.raise_first()
            return own

    def raise_first(self) -> None:
        """Raise the first exception among `places`, if there is one."""
        for place in self.places:
            if isinstance(place, Exception):
                raise place

    def _by_name(self, inputs: Any) -> Arrays:
        """The arrays that the handler gives the model. Raises HandlerFailed for anything else."""
        if isinstance(inputs, dict):
            if not all(isinstance(name, str) for name in inputs):
                raise self.no_inputs("a dictionary whose keys are no names")
            if _ARRAYS_ALONE.issuperset(map(type, inputs.values())):
                return inputs
            return {name: as_array(value, f'input "{name}"') for name, value in inputs.items()}
        specs = self.signature.inputs
        if len(specs) != 1 or inputs is None or isinstance(inputs, str | bytes):
            raise self.no_inputs(type(inputs).__name__)
        return {specs[0].name: as_array(inputs, f'input "{specs[0].name}"')}

    def no_inputs(self, got: str) -> HandlerFailed:
        """The error for a handler that gives the model something else than arrays."""
        by_name = ", ".join(f'"{spec.name}": array' for spec in self.signature.inputs)
        alone = ", or the array alone" if len(self.signature.inputs) == 1 else ""
        return HandlerFailed(f"the handler gave the model {got}, expected {{{by_name}}}{alone}")

    def _is_explain(self) -> bool:
        return self.context.verb == "explain"

    def _is_describe(self) -> bool:
        return self.context.verb == "describe"

    def _begin(self, context: Context, count: int) -> None:
        self.context = context
        self.places = range(count)

    @cached_property
    def reader(self) -> InputReader:
        """Reads tensors as requests give them, and checks them against the signature."""
        return InputReader(self.signature.inputs, self.batching.ids_below)


def _port(spec: manifest.TensorSpec, *, batched: bool) -> Port:
    shape = (-1, *spec.shape[1:]) if batched else spec.shape
    return Port(spec.name, spec.dtype, shape, source="" if spec.source == spec.name else spec.source)


def _rows(inputs: Any) -> int:
    """The number of rows in what `preprocess` returned."""
    return len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs)
