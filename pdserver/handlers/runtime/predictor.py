"""Paddle's predictor behind named numpy arrays."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import paddle
from paddle import inference
from paddle.base import core

from pdarchiver.errors import InvalidModel
from pdarchiver.manifest import Signature
from pdarchiver.signature import check_dtypes
from pdserver.dtypes import BFLOAT16
from pdserver.errors import ArchiveUnusable, ConfigError, HandlerFailed, LoadFailed
from pdserver.formats.elements import rounded, widened
from pdserver.formats.values import nearest
from pdserver.handlers.runtime.rows import Array, Arrays, run_by_size
from pdserver.handlers.runtime.rowwise.proof import FirstAxis, prove

logger = logging.getLogger(__name__)

_LARGE_PARAMS_BYTES = 256 * 1024
_CONVOLUTION = re.compile(rb'"#":"\d+\.\w*conv[23]d|\x1a[\x06-\x20]\w*conv[23]d')
"""An operation's type as the two formats write it: PIR's JSON, and the protobuf of .pdmodel (field 3, its length)."""
_MANY_SHAPES = 64
_FREED_AT_ONCE_BYTES = 4 * 1024
_FREED_AT_ONCE_WITH_CONVOLUTIONS_BYTES = 4 * 1024 * 1024
_FREED_AT_ONCE_FLAG = "FLAGS_eager_delete_tensor_gb"
_FREED_AT_ONCE_GIVEN = paddle.get_flags(_FREED_AT_ONCE_FLAG)[_FREED_AT_ONCE_FLAG] != 0
"""By the operator, in the environment."""


class TensorRtSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`predictor.tensorrt`: parts of the model run by TensorRT, on GPUs, with a Paddle that was built with it."""

    precision: Literal["float32", "float16", "int8"] = "float32"
    min_graph_size: Annotated[int, msgspec.Meta(ge=1)] = 3
    """Operations that a part has at least."""
    workspace_bytes: Annotated[int, msgspec.Meta(ge=0)] = 1 << 30
    max_batch_size: Annotated[int, msgspec.Meta(ge=1)] = 1
    oss: bool = False
    """With TensorRT's open-source plugins, which take sequences of different lengths."""
    min_shapes: dict[str, list[int]] = {}
    max_shapes: dict[str, list[int]] = {}
    opt_shapes: dict[str, list[int]] = {}
    """By the names of inputs, the batch included; with them, shapes may differ from request to request."""


class ReshapeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`predictor.reshape`: other shapes outside than the model has. -1 is what is left over, 0 as long as it is."""

    inputs: dict[str, list[int]] = {}
    """What the model is given."""
    outputs: dict[str, list[int]] = {}
    """What is given back."""

    @property
    def keeps_rows(self) -> bool:
        """Whether the first axis stays as it is."""
        return all(shape[:1] == [0] for shape in (*self.inputs.values(), *self.outputs.values()))


class PredictorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The section `predictor` of a model's own YAML."""

    onednn: bool | Literal["auto"] = "auto"
    """auto: for models with convolutions or 256 KiB of weights; a call costs smaller ones more than it gains."""
    threads: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1
    """Of one worker, on the CPU. As a rule, more workers gain more than more threads."""
    onednn_cache_shapes: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Shapes of inputs for which oneDNN keeps what it has prepared; 0: of all that come."""
    onednn_int8: bool = False
    """Whether operations are run in int8 where the model was quantized for it."""
    ir_optim: bool = True
    memory_optim: bool | Literal["auto"] = "auto"
    """auto: for .pdmodel; Paddle cannot do it for PIR (.json) models."""
    gpu_memory_mb: Annotated[int, msgspec.Meta(ge=1)] = 100
    """The pool that a worker starts with on its GPU; it grows."""
    tensorrt: TensorRtSettings | None = None
    """Has no effect on the CPU."""
    reshape: ReshapeSettings | None = None


@dataclass(frozen=True)
class _Loaded:
    """Paddle's predictor, and what copies arrays to its inputs and from its outputs, by their public names."""

    predictor: Any
    inputs: dict[str, tuple[Callable[[Array], None], np.dtype[Any]]]
    outputs: dict[str, Callable[[], Array]]
    reshape: ReshapeSettings | None

    def run(self, inputs: Arrays) -> Arrays:
        if self.reshape is not None:
            inputs = _reshaped(inputs, self.reshape.inputs)
        for name, (copy, dtype) in self.inputs.items():
            array = inputs[name]
            if not array.size:
                raise HandlerFailed(f'input "{name}" has no elements: shape {list(array.shape)}')
            try:
                copy(array.astype(dtype, order="C", casting="same_kind", copy=False))
            except TypeError:
                raise HandlerFailed(f'input "{name}": expected {dtype}, got {array.dtype}') from None
        self.predictor.run()
        outputs = {name: copy() for name, copy in self.outputs.items()}
        return outputs if self.reshape is None else _reshaped(outputs, self.reshape.outputs)


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
            check_dtypes(signature)
        except InvalidModel as error:
            raise ArchiveUnusable(f"{model_file.name}: {error}") from None
        if device_id is not None:
            _check_gpu(device_id)
        lengths = {spec.shape[0] if spec.shape else -1 for spec in signature.inputs}
        self.fixed_batch_size = length if len(lengths) == 1 and (length := lengths.pop()) > 0 else None
        """The rows that the model takes at a time; None when any number will do."""
        self.onednn = False
        program = model_file.read_bytes()
        self._proof = prove(program, signature.inputs)
        if device_id is None:
            has_convolutions = _CONVOLUTION.search(program) is not None
            self.onednn = self._wants_onednn(has_convolutions)
            _free_many_at_once(has_convolutions)
        self._has_run = False
        try:
            self._loaded = self._load()
        except Exception as error:
            if not self.onednn:
                raise LoadFailed(f"{model_file.name}: paddle cannot load it: {error}") from error
            self._load_without_onednn()
            self._warn(error)
        open_axes = any(-1 in spec.shape[1:] for spec in signature.inputs)
        self._shapes: set[tuple[tuple[int, ...], ...]] | None = set() if self.onednn and open_axes else None
        """Of the rows that came so far, until there are so many that it was warned."""

    def run(self, inputs: Arrays) -> Arrays:
        """The outputs for `inputs`, both by public name and with the batch along the first axis.

        Arrays are converted to the model's dtypes where numpy's "same_kind" rule allows it (float64 to float32, not
        float to int). Raises HandlerFailed for wrong names, for such a conversion and for a batch without rows.
        """
        if inputs.keys() != self._loaded.inputs.keys():
            raise HandlerFailed(self._wrong_names(inputs))
        if self.fixed_batch_size is not None:
            return run_by_size(self._run, inputs, self.fixed_batch_size)
        return self._run(inputs)

    def first_axis(self, output: str) -> FirstAxis:
        """What that of an output is, if that of every input is the batch. `output` is the model's own name."""
        if self._settings.reshape is not None and not self._settings.reshape.keeps_rows:
            return "unknown"
        return self._proof.first_axis(output)

    def sized_by_data(self, output: str) -> bool:
        """Whether its length depends on what is in the inputs."""
        return output in self._proof.sized_by_data

    def because_of(self, output: str) -> str:
        """The operation that is the reason why the rows of an output are not known to be the inputs'; or empty."""
        return self._proof.because_of.get(output, "")

    def ids_below(self, input_source: str) -> int | None:
        """What the numbers in an input have to be less than, since they are rows of an embedding."""
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
            self._load_without_onednn()
            outputs = self._loaded.run(inputs)
        except Exception:
            self._loaded, self.onednn = before, True
            raise
        self._warn(error)
        return outputs

    def _load_without_onednn(self) -> None:
        self.onednn = False
        try:
            self._loaded = self._load()
        except Exception as plain_error:
            raise LoadFailed(f"{self._model_file.name}: paddle cannot load it: {plain_error}") from plain_error

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
        if paddle.__version__.startswith(("1.", "2.")):
            raise LoadFailed(f"{self._model_file.name}: .json models need Paddle 3, this is {paddle.__version__}")

    def _wants_onednn(self, has_convolutions: bool) -> bool:
        if self._settings.onednn != "auto":
            return self._settings.onednn
        return has_convolutions or (
            self._params_file is not None and self._params_file.stat().st_size >= _LARGE_PARAMS_BYTES
        )

    def _load(self) -> _Loaded:
        predictor = inference.create_predictor(self._config())
        inputs = {
            spec.name: self._feed(predictor.get_input_handle(spec.source), spec.dtype)
            for spec in self._signature.inputs
        }
        outputs = {
            spec.name: _fetch(predictor.get_output_handle(spec.source), spec.dtype) for spec in self._signature.outputs
        }
        return _Loaded(predictor, inputs, outputs, self._settings.reshape)

    def _feed(self, handle: Any, dtype: str) -> tuple[Callable[[Array], None], np.dtype[Any]]:
        """What copies an array to an input, and the dtype that it takes."""
        if dtype != BFLOAT16:
            return handle.copy_from_cpu, np.dtype(dtype)
        place = core.CPUPlace() if self._device_id is None else core.CUDAPlace(self._device_id)

        held = core.DenseTensor()  # lives as long as the handle does, which only points to its memory

        def copy(array: Array) -> None:
            held.set(rounded(array), place)  # uint16 is what Paddle takes bfloat16 from
            handle.share_external_data(held)

        return copy, np.dtype(np.float32)

    def _config(self) -> Any:
        """Only with calls that Paddle 2.6 and 3.x have in common."""
        config = inference.Config(str(self._model_file), str(self._params_file or ""))
        if self._device_id is not None:
            config.enable_use_gpu(self._settings.gpu_memory_mb, self._device_id)
            if self._settings.tensorrt is not None:
                _use_tensorrt(config, self._settings.tensorrt)
        else:
            config.disable_gpu()
            config.set_cpu_math_library_num_threads(self._settings.threads)
            # Said either way: the default differs between Paddle's versions.
            if self.onednn:
                config.enable_mkldnn()
                if self._settings.onednn_cache_shapes:
                    config.set_mkldnn_cache_capacity(self._settings.onednn_cache_shapes)
                if self._settings.onednn_int8:
                    config.enable_mkldnn_int8()
            else:
                config.disable_mkldnn()
        config.switch_ir_optim(self._settings.ir_optim)
        if self._settings.memory_optim and self._model_file.suffix != ".json":
            config.enable_memory_optim()
        config.disable_glog_info()
        return config

    def _wrong_shape(self, inputs: Arrays) -> str:
        """What is wrong with inputs that the model could not run with; "" for those that are as it says."""
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


def _fetch(handle: Any, dtype: str) -> Callable[[], Array]:
    """What gives an output."""
    if dtype != BFLOAT16:
        return handle.copy_to_cpu  # type: ignore[no-any-return]

    def copy() -> Array:
        held: Array = handle.copy_to_cpu()
        if handle.type() != inference.DataType.BFLOAT16:
            return held
        # Paddle gives an array of float32 and writes bfloat16 to its first half; the rest is anything.
        return widened(held.reshape(-1).view(np.uint16)[: held.size]).reshape(held.shape)

    return copy


def _free_many_at_once(has_convolutions: bool) -> None:
    """Have Paddle gather a run's intermediate results before it frees them, unless the operator says otherwise.

    It wakes a second thread each time that it frees some, which takes time from the model. But what it counts are the
    elements' bytes, and each result takes a page of 4 KiB at least: where they are small, those that make up megabytes
    would take gigabytes. Convolutions' are large.
    """
    if not _FREED_AT_ONCE_GIVEN:
        size = _FREED_AT_ONCE_WITH_CONVOLUTIONS_BYTES if has_convolutions else _FREED_AT_ONCE_BYTES
        paddle.set_flags({_FREED_AT_ONCE_FLAG: size / 2**30})


def _use_tensorrt(config: Any, settings: TensorRtSettings) -> None:
    precisions = inference.PrecisionType
    config.enable_tensorrt_engine(
        workspace_size=settings.workspace_bytes,
        max_batch_size=settings.max_batch_size,
        min_subgraph_size=settings.min_graph_size,
        precision_mode={"float32": precisions.Float32, "float16": precisions.Half, "int8": precisions.Int8}[
            settings.precision
        ],
        use_static=False,
        use_calib_mode=False,
    )
    if settings.min_shapes:
        config.set_trt_dynamic_shape_info(settings.min_shapes, settings.max_shapes, settings.opt_shapes)
    if settings.oss:
        config.enable_tensorrt_varseqlen()


def _reshaped(arrays: Arrays, shapes: Mapping[str, list[int]]) -> Arrays:
    """Raises HandlerFailed for an array that has not as many elements."""
    result = dict(arrays)
    for name, shape in shapes.items():
        given = arrays.get(name)
        if given is None:
            continue
        try:
            result[name] = given.reshape([length or given.shape[axis] for axis, length in enumerate(shape)])
        except (ValueError, IndexError):
            raise HandlerFailed(f'"{name}" of shape {list(given.shape)} cannot become {shape}') from None
    return result


def _check_gpu(device_id: int) -> None:
    if not paddle.device.is_compiled_with_cuda():
        raise LoadFailed(
            f"deviceType gpu, device {device_id}: this Paddle was built without CUDA; install paddlepaddle-gpu, "
            "or set deviceType to cpu"
        )
    count = paddle.device.cuda.device_count()
    if device_id >= count:
        raise LoadFailed(f"deviceIds: there is no GPU {device_id}; this machine has {count}, counted from 0")
