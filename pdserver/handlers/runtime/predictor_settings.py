"""The section `predictor` of a model's own YAML: what runs the model, and how."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec


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

    engine: Literal["auto", "paddle", "onnxruntime", "openvino"] = "auto"
    """auto: the fastest one that is installed, reads the model, and gives Paddle's answers; see `engine_trial`."""
    engine_trial: bool = True
    """Whether `auto` tries the engines on a machine that does not know yet which is best. False: Paddle for its own
    models, and for .onnx the first of the others that is installed."""
    engine_tolerance: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 1e-4
    """How far an engine's answers may be from Paddle's, as a share of the largest number."""
    precision: Literal["float32", "bfloat16", "float16", "int8", "auto"] = "float32"
    """In which the engine may compute on the CPU. auto: any whose answers to the archive's samples are right. What the
    processor, the model or all engines can't do is refused when the model is loaded."""
    precision_tolerance: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 2e-2
    """How far answers in a lower precision may be from Paddle's in float32, as a share of the largest number."""
    onednn: bool | Literal["auto"] = "auto"
    """auto: for models with convolutions or 256 KiB of weights; a call costs smaller ones more than it gains."""
    threads: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1
    """Of one worker, on the CPU. As a rule, more workers gain more than more threads."""
    engine_shapes: Annotated[int, msgspec.Meta(ge=0, le=65536)] = 0
    """Shapes of inputs, the batch included, for which Paddle's oneDNN and OpenVINO keep the operations that they have
    prepared; 0: those of the section `padding`. In any case, they keep 1024."""
    onednn_cache_shapes: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Shapes for which Paddle itself keeps weights as oneDNN takes them; 0: its own number, 10."""
    ir_optim: bool = True
    memory_optim: bool | Literal["auto"] = "auto"
    """auto: for .pdmodel; Paddle cannot do it for PIR (.json) models."""
    gpu_memory_mb: Annotated[int, msgspec.Meta(ge=1)] = 100
    """The pool that a worker starts with on its GPU; it grows."""
    tensorrt: TensorRtSettings | None = None
    """Has no effect on the CPU."""
    reshape: ReshapeSettings | None = None
