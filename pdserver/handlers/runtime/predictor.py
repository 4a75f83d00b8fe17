"""A model that runs: what it takes and gives, and what is tried when it does not run."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from pdarchiver import signature as signatures
from pdarchiver.errors import InvalidModel
from pdarchiver.manifest import Signature
from pdserver.errors import ArchiveUnusable, ConfigError, HandlerFailed, LoadFailed
from pdserver.formats.values import nearest
from pdserver.handlers.runtime import paddle_model
from pdserver.handlers.runtime.paddle_model import PaddleModel
from pdserver.handlers.runtime.predictor_settings import PredictorSettings
from pdserver.handlers.runtime.rows import Arrays, run_by_size
from pdserver.handlers.runtime.rowwise.proof import FirstAxis, prove

logger = logging.getLogger(__name__)

_LARGE_PARAMS_BYTES = 256 * 1024
_CONVOLUTION = re.compile(rb'"#":"\d+\.\w*conv[23]d|\x1a[\x06-\x20]\w*conv[23]d')
"""An operation's type in the two formats: in PIR's JSON, and in .pdmodel's protobuf (field 3 and its length)."""
_MANY_SHAPES = 64


class Predictor:
    """One model, loaded. `device_id` is a GPU's number, None for the CPU.

    Raises ArchiveUnusable for files that are missing or of another kind, LoadFailed when Paddle or the device cannot
    use them, ConfigError for settings that cannot be.
    """

    def __init__(
        self,
        model_file: Path,
        params_file: Path | None,
        signature: Signature,
        settings: PredictorSettings,
        device_id: int | None,
    ) -> None:
        self._model_file, self._params_file = model_file, params_file
        self._signature, self._settings, self._device_id = signature, settings, device_id
        self._check_files()
        try:
            signatures.check_dtypes(signature)
        except InvalidModel as error:
            raise ArchiveUnusable(f"{model_file.name}: {error}") from None
        if device_id is not None:
            paddle_model.check_gpu(device_id)
        lengths = {spec.shape[0] if spec.shape else -1 for spec in signature.inputs}
        self.fixed_batch_size = length if len(lengths) == 1 and (length := lengths.pop()) > 0 else None
        """The number of rows that the model takes at a time, or None for any number."""
        self._sizes: tuple[int, ...] = () if self.fixed_batch_size is None else (self.fixed_batch_size,)
        """The numbers of rows that Paddle is given, ascending; empty: any."""
        self.onednn = False
        program = model_file.read_bytes()
        self._proof = prove(program, signature.inputs)
        if device_id is None:
            has_convolutions = _CONVOLUTION.search(program) is not None
            self.onednn = self._wants_onednn(has_convolutions)
            paddle_model.free_many_at_once(has_convolutions)
        self._has_run = False
        self._loaded = self._load_first()
        open_axes = any(-1 in spec.shape[1:] for spec in signature.inputs)
        self._shapes: set[tuple[tuple[int, ...], ...]] | None = set() if self.onednn and open_axes else None
        """The shapes of rows so far, until there were so many that a warning was logged."""

    def run(self, inputs: Arrays) -> Arrays:
        """The outputs for `inputs`, both by public name and with the batch along the first axis.

        Arrays are converted to the model's dtypes where numpy's "same_kind" rule allows it (float64 to float32, not
        float to int). Raises HandlerFailed for wrong names, for such a conversion and for a batch without rows.
        """
        if inputs.keys() != self._loaded.inputs.keys():
            raise HandlerFailed(self._wrong_names(inputs))
        if self._sizes:
            return run_by_size(self._run, inputs, self._sizes)
        return self._run(inputs)

    def allow(self, batch_sizes: tuple[int, ...]) -> None:
        """Give Paddle batches of these sizes alone, for a model whose rows don't depend on each other. `batch_sizes`
        ascend. Without effect on a model of a fixed batch size."""
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

    def _run(self, inputs: Arrays) -> Arrays:
        try:
            outputs = self._loaded.run(inputs)
        except HandlerFailed:
            raise
        except Exception as error:
            if wrong := self._wrong_shape(inputs):
                raise HandlerFailed(wrong) from error
            if self._has_run or not self.onednn:
                raise
            outputs = self._first_run_without_onednn(error, inputs)
        self._has_run = True
        if self._shapes is not None:
            self._note_shape(self._shapes, inputs)
        return outputs

    def _note_shape(self, shapes: set[tuple[tuple[int, ...], ...]], inputs: Arrays) -> None:
        """Warn once when oneDNN has prepared operations for many shapes: it keeps up to 1024 of them."""
        shapes.add(tuple([array.shape[1:] for array in inputs.values()]))
        if len(shapes) == _MANY_SHAPES:
            self._shapes = None
            if self.onednn:
                logger.warning(
                    "%s: inputs of %d shapes so far; oneDNN keeps what it prepares for each, which takes memory. In "
                    "the server's environment, ONEDNN_PRIMITIVE_CACHE_CAPACITY=64 keeps less (1024 by itself); "
                    "or fill inputs up to few lengths (padding.buckets), or set predictor.onednn: false",
                    self._model_file.name,
                    _MANY_SHAPES,
                )

    def _first_run_without_onednn(self, error: Exception, inputs: Arrays) -> Arrays:
        """Some graphs load with oneDNN and then cannot run. If it is the inputs' fault, nothing changes."""
        before = self._loaded
        try:
            self._loaded = self._load_without_onednn()
            outputs = self._loaded.run(inputs)
        except Exception:
            self._loaded, self.onednn = before, True
            raise
        self._warn(error)
        return outputs

    def _load_first(self) -> PaddleModel:
        try:
            return self._load()
        except Exception as error:
            if not self.onednn:
                raise self._cannot_be_loaded(error) from error
            loaded = self._load_without_onednn()
            self._warn(error)
            return loaded

    def _load_without_onednn(self) -> PaddleModel:
        self.onednn = False
        try:
            return self._load()
        except Exception as plain_error:
            raise self._cannot_be_loaded(plain_error) from plain_error

    def _cannot_be_loaded(self, error: Exception) -> LoadFailed:
        saved_by = signatures.saved_by(self._model_file)
        fix = ""
        if saved_by and saved_by != paddle_model.VERSION:
            could = "2.6" if saved_by.startswith(("1.", "2.")) else saved_by
            fix = (
                f" (Paddle {saved_by} has saved it and Paddle {could} can load it, this is {paddle_model.VERSION}: "
                "install that one, or export the model again)"
            )
        return LoadFailed(f"{self._model_file.name}: paddle cannot load it{fix}: {error}")

    def _warn(self, error: Exception) -> None:
        logger.warning("%s: going on without oneDNN, which fails (predictor.onednn: false saves the attempt): %s",
                       self._model_file.name, error)  # fmt: skip

    def _check_files(self) -> None:
        for file in filter(None, (self._model_file, self._params_file)):
            if not file.is_file():
                raise ArchiveUnusable(f"{file.name}: no such file in the archive")
        if self._model_file.suffix != ".json":
            return
        if self._settings.memory_optim is True:
            raise ConfigError("predictor.memory_optim: true: Paddle cannot do this for .json models; leave it out")
        if not paddle_model.READS_JSON:
            raise LoadFailed(f"{self._model_file.name}: .json models need Paddle 3, this is {paddle_model.VERSION}")

    def _wants_onednn(self, has_convolutions: bool) -> bool:
        if self._settings.onednn != "auto":
            return self._settings.onednn
        return has_convolutions or (
            self._params_file is not None and self._params_file.stat().st_size >= _LARGE_PARAMS_BYTES
        )

    def _load(self) -> PaddleModel:
        return paddle_model.load(
            self._model_file, self._params_file, self._signature, self._settings, self._device_id, onednn=self.onednn
        )

    def _wrong_shape(self, inputs: Arrays) -> str:
        """What is wrong with the shapes of these inputs, or "" if they fit the model."""
        for spec in self._signature.inputs if self._settings.reshape is None else ():
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
        known = self._loaded.inputs
        for name in inputs.keys() - known.keys():
            return f'the model has no input "{name}"{nearest(name, known)}; its inputs are {", ".join(known)}'
        missing = ", ".join(known.keys() - inputs.keys())
        return f"the model's inputs are {', '.join(known)}; the handler left out {missing}"
