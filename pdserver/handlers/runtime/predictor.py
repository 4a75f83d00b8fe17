"""A model that runs: what it takes and gives, and what is tried when it does not run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from pdarchiver import signature as signatures
from pdserver.dtypes import BFLOAT16
from pdserver.errors import HandlerFailed, LoadFailed, PdError
from pdserver.formats.values import nearest
from pdserver.handlers.runtime.described import Described
from pdserver.handlers.runtime.engines.base import Engine
from pdserver.handlers.runtime.engines.ways import Way, ways
from pdserver.handlers.runtime.model_input import check_ids
from pdserver.handlers.runtime.padding import Padding
from pdserver.handlers.runtime.rows import Arrays, reshaped, run_by_size
from pdserver.handlers.runtime.rowwise.proof import FirstAxis
from pdserver.types import RunningEngine

logger = logging.getLogger(__name__)

_MANY_SHAPES = 64


class Predictor:
    """One model, loaded.

    Raises LoadFailed when no engine or device can use the model.
    """

    def __init__(self, described: Described, release: Callable[[], None] = lambda: None) -> None:
        """`release` is called once, when the model's files are not needed any more: after the first run at the latest,
        which may show that another way to load it must be taken."""
        files, self._settings, self._device_id = described.files, described.settings, described.device_id
        self._model_file, self._signature, self._proof = files.model, files.signature, described.proof
        self._dtypes: dict[str, np.dtype[Any]] = {
            spec.name: np.dtype("float32" if spec.dtype == BFLOAT16 else spec.dtype) for spec in files.signature.inputs
        }
        lengths = {spec.shape[0] if spec.shape else -1 for spec in files.signature.inputs}
        self.fixed_batch_size = length if len(lengths) == 1 and (length := lengths.pop()) > 0 else None
        """The number of rows that the model takes at a time, or None for any number."""
        self._sizes: tuple[int, ...] = () if self.fixed_batch_size is None else (self.fixed_batch_size,)
        """The numbers of rows that the engine is given, ascending; empty: any."""
        self.padding: Padding | None = None
        """How inputs are filled up before the engine is given them."""
        self._release = release
        self._choice = described.choice
        first, *self._others = [
            way for candidate in described.order for way in ways(candidate, self._settings, self._device_id)
        ]
        """The other ways to load it, for as long as the one in use has not run."""
        self._way, self._loaded = self._load_first(first)
        if not self._others:
            release()
        open_axes = any(-1 in spec.shape[1:] for spec in files.signature.inputs)
        self._shapes: set[tuple[tuple[int, ...], ...]] | None = set() if self._prepares and open_axes else None
        """The shapes of rows so far, until there were so many that a warning was logged."""

    @property
    def engine(self) -> str:
        """What runs the model, and with what precision unless that is float32."""
        return str(self._way.candidate)

    @property
    def engines(self) -> tuple[RunningEngine, ...]:
        """The one engine, and the trial by which it was chosen."""
        choice = self._choice
        trial, remembered = (None, False) if choice is None else (choice.outcome, choice.remembered)
        return (RunningEngine(self.engine, trial, remembered),)

    @property
    def may_give_way(self) -> bool:
        """Whether another engine may take over yet: the first run shows."""
        return bool(self._others)

    @property
    def onednn(self) -> bool:
        """Whether Paddle runs it with oneDNN."""
        return self._way.onednn

    def run(self, inputs: Arrays) -> Arrays:
        """The outputs for `inputs`, both by public name and with the batch along the first axis.

        Arrays are converted to the model's dtypes where numpy's "same_kind" rule allows it (float64 to float32, not
        float to int). Raises HandlerFailed for wrong names, for such a conversion and for a batch without rows;
        InvalidRequest for numbers that are no rows of an embedding, where the engine would not.
        """
        if inputs.keys() != self._dtypes.keys():
            raise HandlerFailed(self._wrong_names(inputs))
        return self._run_by_size(inputs) if self.padding is None else self.padding.run(self._run_by_size, inputs)

    def allow(self, batch_sizes: tuple[int, ...]) -> None:
        """Give the engine batches of these sizes alone, for a model whose rows don't depend on each other.

        `batch_sizes` ascend. Without effect on a model of a fixed batch size.
        """
        if self.fixed_batch_size is None:
            self._sizes = batch_sizes

    def first_axis(self, output: str) -> FirstAxis:
        """What the first axis of `output`, by the model's name, is if that of every input is the batch."""
        if self._settings.reshape is not None and not self._settings.reshape.keeps_rows:
            return "unknown"
        return self._proof.first_axis(output)

    def sized_by_data(self, output: str) -> bool:
        """Whether the output's length depends on the values of the inputs."""
        return output in self._proof.sized_by_data

    def because_of(self, output: str) -> str:
        """The operation because of which an output's rows are not known to be the inputs' rows, or ""."""
        return self._proof.because_of.get(output, "")

    def ids_below(self, input_source: str) -> int | None:
        """The bound that the numbers in an input must stay below, if they are rows of an embedding."""
        return self._proof.ids_below.get(input_source)

    def _run_by_size(self, inputs: Arrays) -> Arrays:
        return run_by_size(self._run, inputs, self._sizes) if self._sizes else self._run(inputs)

    def _run(self, inputs: Arrays) -> Arrays:
        shapes = self._settings.reshape
        given = self._prepared(inputs if shapes is None else reshaped(inputs, shapes.inputs))
        try:
            outputs = self._loaded.run(given)
        except Exception as error:
            if self._settings.reshape is None and (wrong := self._wrong_shape(inputs)):
                raise HandlerFailed(wrong) from error
            if not self._others:
                raise
            outputs = self._first_run_otherwise(error, given)
        if self._others:
            self._others = []
            self._release()
        if self._shapes is not None:
            self._note_shape(self._shapes, inputs)
        return outputs if shapes is None else reshaped(outputs, shapes.outputs)

    def _prepared(self, inputs: Arrays) -> Arrays:
        """As engines take them."""
        prepared = {}
        for name, dtype in self._dtypes.items():
            array = inputs[name]
            if not array.size:
                raise HandlerFailed(f'input "{name}" has no elements: shape {list(array.shape)}')
            try:
                prepared[name] = array.astype(dtype, order="C", casting="same_kind", copy=False)
            except TypeError:
                raise HandlerFailed(f'input "{name}": expected {dtype}, got {array.dtype}') from None
        if self._way.candidate.engine != "paddle":  # it alone refuses by itself what would be read from beyond an input
            if wrong := self._wrong_shape(prepared):
                raise HandlerFailed(wrong)
            for spec in self._signature.inputs:
                if (below := self.ids_below(spec.source)) is not None:
                    check_ids(spec.name, prepared[spec.name], below)
        return prepared

    @property
    def _prepares(self) -> bool:
        """Whether the engine prepares its operations for each shape of the inputs."""
        return self.onednn or self._way.candidate.engine == "openvino"

    def _note_shape(self, shapes: set[tuple[tuple[int, ...], ...]], inputs: Arrays) -> None:
        """Warn once when the engine has prepared operations for many shapes: it keeps a number of them only."""
        shapes.add(tuple([array.shape[1:] for array in inputs.values()]))
        if len(shapes) == _MANY_SHAPES:
            self._shapes = None
            if self._prepares:
                logger.warning(
                    "%s: inputs of %d shapes so far; %s prepares its operations for each, and again when it comes "
                    "after many others. padding.buckets in the model's config file fills inputs up to few lengths; "
                    "predictor.engine_shapes says for how many shapes operations are kept",
                    self._model_file.name,
                    _MANY_SHAPES,
                    "oneDNN" if self.onednn else self.engine,
                )

    def _first_run_otherwise(self, error: Exception, inputs: Arrays) -> Arrays:
        """Some graphs load and then cannot run. If it is the inputs' fault, nothing changes."""
        failed = error
        for way in self._others:
            try:
                loaded = way.load(self._settings, self._device_id)
                outputs = loaded.run(inputs)
            except Exception as another:  # noqa: BLE001 - each engine has errors of its own
                failed = another
                continue
            self._warn(self._way, way, error)
            self._loaded.close()
            self._way, self._loaded = way, loaded
            return outputs
        raise failed

    def _load_first(self, way: Way) -> tuple[Way, Engine]:
        """The first way by which the model can be loaded. Those that come after it stay in `_others`."""
        failed: list[tuple[Way, Exception]] = []
        while True:
            try:
                loaded = way.load(self._settings, self._device_id)
            except Exception as error:
                if not self._others:
                    is_told = isinstance(error, (PdError, ModuleNotFoundError))
                    raise (error if is_told else self._cannot_be_loaded(way, error)) from error
                failed.append((way, error))
                way = self._others.pop(0)
            else:
                for before, why in failed:
                    self._warn(before, way, why)
                return way, loaded

    def _cannot_be_loaded(self, way: Way, error: Exception) -> LoadFailed:
        engine, fix = way.candidate.engine, ""
        if engine == "paddle" and (saved_by := signatures.saved_by(self._model_file)):
            from pdserver.handlers.runtime.engines import paddle  # it is loaded: it has raised the error

            if saved_by != paddle.VERSION:
                could = "2.6" if saved_by.startswith(("1.", "2.")) else saved_by
                fix = (
                    f" (Paddle {saved_by} has saved it and Paddle {could} can load it, this is {paddle.VERSION}: "
                    "install that one, or export the model again)"
                )
        said, folder = str(error), self._model_file.parent
        for place in (folder, folder.resolve()):  # where archives lie is the server's own affair
            said = said.replace(f"{place}/", "").replace(str(place), "the model's folder")
        return LoadFailed(f"{self._model_file.name}: {engine} cannot load it{fix}: {said}")

    def _warn(self, failed: Way, taken: Way, error: Exception) -> None:
        without = "oneDNN, which fails (predictor.onednn: false saves the attempt)"
        if failed.candidate != taken.candidate:
            without = f"{failed.candidate}, with {taken.candidate} (predictor.engine names one)"
        logger.warning("%s: going on without %s: %s", self._model_file.name, without, error)

    def _wrong_shape(self, inputs: Arrays) -> str:
        """What is wrong with the shapes of these inputs, or "" if they fit the model."""
        for spec in self._signature.inputs:
            given = inputs[spec.name]
            if len(given.shape) != len(spec.shape) or any(
                wanted not in (-1, length) for wanted, length in zip(spec.shape, given.shape, strict=True)
            ):
                shape = ", ".join("any" if length == -1 else str(length) for length in spec.shape)
                return (
                    f'input "{spec.name}": expected {spec.dtype} of shape [{shape}], got {given.dtype} of shape '
                    f"{list(given.shape)}"
                )
        return ""

    def _wrong_names(self, inputs: Arrays) -> str:
        known = self._dtypes
        for name in inputs.keys() - known.keys():
            return f'the model has no input "{name}"{nearest(name, known)}; its inputs are {", ".join(known)}'
        missing = ", ".join(known.keys() - inputs.keys())
        return f"the model's inputs are {', '.join(known)}; the handler left out {missing}"
