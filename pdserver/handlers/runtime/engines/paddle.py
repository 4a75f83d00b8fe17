"""A model as Paddle's inference API loads and runs it, behind named numpy arrays.

Only with calls that Paddle 2.6 and 3.x have in common.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import inference
from paddle.base import core

from pdarchiver import graph_files
from pdarchiver.errors import InvalidModel
from pdserver.dtypes import BFLOAT16
from pdserver.errors import LoadFailed
from pdserver.formats.elements import rounded, widened
from pdserver.handlers.runtime.engines.base import KEPT_OPERATIONS, Candidate, Precision, kept_operations
from pdserver.handlers.runtime.predictor_settings import PredictorSettings, TensorRtSettings
from pdserver.handlers.runtime.rows import Array, Arrays

_FREED_AT_ONCE_BYTES = 4 * 1024
_FREED_AT_ONCE_WITH_CONVOLUTIONS_BYTES = 4 * 1024 * 1024
_FREED_AT_ONCE_FLAG = "FLAGS_eager_delete_tensor_gb"
_FREED_AT_ONCE_GIVEN = paddle.get_flags(_FREED_AT_ONCE_FLAG)[_FREED_AT_ONCE_FLAG] != 0
"""Whether the operator set the flag, in the environment."""
READS_JSON = not paddle.__version__.startswith(("1.", "2."))
"""Whether this Paddle reads models in PIR's form."""
VERSION: str = paddle.__version__


def _onednn() -> Any:
    """Paddle's library, which `import paddle` has loaded; None where it has another name."""
    try:
        return ctypes.CDLL("libdnnl.so.3")
    except OSError:
        return None


def _kept() -> int:
    """How many operations oneDNN keeps of all models in this process, which it calls primitives."""
    kept = ctypes.c_int(0)
    if _ONEDNN is not None:
        _ONEDNN.dnnl_get_primitive_cache_capacity(ctypes.byref(kept))
    return kept.value


_ONEDNN = _onednn()
_KEPT_GIVEN = _kept() != KEPT_OPERATIONS
"""Whether the operator set the number, in the environment."""


@dataclass
class PaddleModel:
    """Paddle's predictor, and what copies arrays to its inputs and from its outputs, by their public names."""

    predictor: Any
    inputs: dict[str, Callable[[Array], None]]
    outputs: dict[str, Callable[[], Array]]
    shares_buffers: bool = False
    """Whether intermediate results have common buffers, as `memory_optim` arranges."""
    largest_bytes: int = 0
    """Of the inputs of a run so far."""

    def run(self, inputs: Arrays) -> Arrays:
        """As Engine says."""
        if self.shares_buffers and (size := sum(array.nbytes for array in inputs.values())) > self.largest_bytes:
            self.largest_bytes = size
            self._forget_buffers()
        for name, copy in self.inputs.items():
            copy(inputs[name])
        self.predictor.run()
        return {name: copy() for name, copy in self.outputs.items()}

    def close(self) -> None:
        """As Engine says."""
        self.inputs, self.outputs = {}, {}  # they point into the predictor
        self.predictor = None

    def _forget_buffers(self) -> None:
        """Let the next run make its buffers anew, at its size.

        A result that has become too large for a common buffer gets one of its own, while others keep the old one. With
        inputs that grow from run to run, buffers of all past sizes would stay, and as many holes between them.
        """
        self.predictor.clear_intermediate_tensor()


def load(
    candidate: Candidate, settings: PredictorSettings, device_id: int | None, *, onednn: bool, convolutions: bool
) -> PaddleModel:
    """`device_id` is a GPU's number, None for the CPU. `convolutions`: whether the model has some.

    Raises LoadFailed for a GPU that is not there and for a form that this Paddle can't read, and whatever Paddle raises
    for a model that it cannot load.
    """
    model_file, signature = candidate.model_file, candidate.signature
    if model_file.suffix == ".json" and not READS_JSON:
        raise LoadFailed(f"{model_file.name}: .json models need Paddle 3, this is {VERSION}")
    if device_id is not None:
        check_gpu(device_id)
    else:
        free_many_at_once(convolutions)
        if onednn and settings.engine_shapes:
            keep_operations(model_file, settings.engine_shapes)
    config = _config(model_file, candidate.params_file, settings, device_id, candidate.precision, onednn=onednn)
    predictor = inference.create_predictor(config)
    inputs = {
        spec.name: _feed(predictor.get_input_handle(spec.source), spec.dtype, device_id) for spec in signature.inputs
    }
    outputs = {spec.name: _fetch(predictor.get_output_handle(spec.source), spec.dtype) for spec in signature.outputs}
    shares_buffers = device_id is None and _shares_buffers(settings, model_file)
    return PaddleModel(predictor, inputs, outputs, shares_buffers)


def has_cuda() -> bool:
    """Whether this Paddle was built for GPUs."""
    return bool(paddle.device.is_compiled_with_cuda())


def gpus() -> tuple[str, ...]:
    """The names of the GPUs that Paddle sees."""
    count = paddle.device.cuda.device_count() if has_cuda() else 0
    return tuple(paddle.device.cuda.get_device_name(device) for device in range(count))


def check_gpu(device_id: int) -> None:
    """Raises LoadFailed when there is no such GPU."""
    if not has_cuda():
        raise LoadFailed(
            f"deviceType gpu, device {device_id}: this Paddle was built without CUDA; install paddlepaddle-gpu, "
            "or set deviceType to cpu (of serve: --gpu_ids -1)"
        )
    count = paddle.device.cuda.device_count()
    if device_id >= count:
        raise LoadFailed(f"deviceIds: there is no GPU {device_id}; this machine has {count}, counted from 0")


def free_many_at_once(has_convolutions: bool) -> None:
    """Have Paddle gather a run's intermediate results before it frees them, unless the operator says otherwise.

    It wakes a second thread each time that it frees some, which takes time from the model. But what it counts are the
    elements' bytes, and each result takes a page of 4 KiB at least: where they are small, those that make up megabytes
    would take gigabytes. Convolutions' are large.
    """
    if not _FREED_AT_ONCE_GIVEN:
        size = _FREED_AT_ONCE_WITH_CONVOLUTIONS_BYTES if has_convolutions else _FREED_AT_ONCE_BYTES
        paddle.set_flags({_FREED_AT_ONCE_FLAG: size / 2**30})


def keep_operations(model_file: Path, shapes: int) -> None:
    """Have oneDNN keep a model's operations for so many shapes of its inputs, unless the operator says otherwise."""
    if not _KEPT_GIVEN:
        with contextlib.suppress(InvalidModel):
            operations = len(graph_files.read(model_file.read_bytes()).operations)
            _ONEDNN.dnnl_set_primitive_cache_capacity(max(_kept(), kept_operations(operations, shapes)))


def _feed(handle: Any, dtype: str, device_id: int | None) -> Callable[[Array], None]:
    """A function that copies an array to an input."""
    if dtype != BFLOAT16:
        return handle.copy_from_cpu  # type: ignore[no-any-return]
    place = core.CPUPlace() if device_id is None else core.CUDAPlace(device_id)

    held = core.DenseTensor()  # lives as long as the handle does, which only points to its memory

    def copy(array: Array) -> None:
        held.set(rounded(array), place)  # uint16 is what Paddle takes bfloat16 from
        handle.share_external_data(held)

    return copy


def _fetch(handle: Any, dtype: str) -> Callable[[], Array]:
    """A function that returns an output."""
    if dtype != BFLOAT16:
        return handle.copy_to_cpu  # type: ignore[no-any-return]

    def copy() -> Array:
        held: Array = handle.copy_to_cpu()
        if handle.type() != inference.DataType.BFLOAT16:
            return held
        # Paddle returns an array of float32 whose first half holds the bfloat16. The second half is undefined.
        return widened(held.reshape(-1).view(np.uint16)[: held.size]).reshape(held.shape)

    return copy


def _config(
    model_file: Path,
    params_file: Path | None,
    settings: PredictorSettings,
    device_id: int | None,
    precision: Precision,
    *,
    onednn: bool,
) -> Any:
    config = inference.Config(str(model_file), str(params_file or ""))
    if device_id is not None:
        config.enable_use_gpu(settings.gpu_memory_mb, device_id)
        if settings.tensorrt is not None:
            _use_tensorrt(config, settings.tensorrt)
    else:
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(settings.threads)
        # Set either way, since the default differs between Paddle's versions.
        if onednn:
            config.enable_mkldnn()
            if settings.onednn_cache_shapes:
                config.set_mkldnn_cache_capacity(settings.onednn_cache_shapes)
            if precision == "int8":
                config.enable_mkldnn_int8()
            elif precision == "bfloat16":
                config.enable_mkldnn_bfloat16()
        else:
            config.disable_mkldnn()
    config.switch_ir_optim(settings.ir_optim)
    if _shares_buffers(settings, model_file):
        config.enable_memory_optim()
    config.disable_glog_info()
    return config


def _shares_buffers(settings: PredictorSettings, model_file: Path) -> bool:
    return bool(settings.memory_optim) and model_file.suffix != ".json"


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
