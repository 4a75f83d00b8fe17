"""The shapes that a model's inputs will have, where its config file says so: each is run before the first request.

An engine prepares a model's operations for each shape when it comes first, which takes it several times as long as a
run.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from pdarchiver.manifest import Signature
from pdserver.dtypes import BFLOAT16, BYTES
from pdserver.errors import ConfigError, LoadFailed
from pdserver.formats.values import listed, nearest, shown
from pdserver.handlers.context import Context
from pdserver.handlers.runtime import padding, sections
from pdserver.handlers.runtime.padding import Padding
from pdserver.handlers.runtime.predictor_settings import PredictorSettings, ReshapeSettings
from pdserver.handlers.runtime.rows import Arrays

_log = logging.getLogger("pdserver.handlers")
_MOST = 1024


def settings(context: Context, signature: Signature) -> PredictorSettings:
    """The section `predictor`, with the number of shapes that the engine will see, if that is known. Raises
    ConfigError."""
    given = sections.read(PredictorSettings, "predictor", context.model_yaml_config)
    filled = padding.of_model(context.model_yaml_config, signature, batched=True)
    if given.engine_shapes or filled is None:
        return given
    return msgspec.structs.replace(given, engine_shapes=filled.shape_count * len(batch_sizes(context)))


def check_names(reshape: ReshapeSettings, signature: Signature) -> None:
    """Raises ConfigError for a shape of what the model does not have."""
    sides = {"input": (reshape.inputs, signature.inputs), "output": (reshape.outputs, signature.outputs)}
    for side, (shapes, specs) in sides.items():
        known = [spec.name for spec in specs]
        for name in shapes.keys() - set(known):
            raise ConfigError(
                f"predictor.reshape.{side}s: the model has no {side} {shown(name)}{nearest(name, known)} "
                f"(it has {listed(known)})"
            )


def batch_sizes(context: Context) -> Sequence[int]:
    """Numbers of rows that a run will have; those of one request and of a full batch, where any may come."""
    return context.allowed_batch_sizes or sorted({1, context.system_properties["batch_size"]})


def prepare(run: Callable[[Arrays], Arrays], filled: Padding, sizes: Sequence[int]) -> None:
    """Run zeros of every shape that `filled` makes, with each number of rows; the largest first, since all the others
    fit into what it takes. Raises ConfigError for too many, LoadFailed for one that can't be run."""
    count = filled.shape_count * len(sizes)
    if count > _MOST:
        raise ConfigError(
            f"padding.buckets: they make {filled.shape_count} shapes, with {len(sizes)} sizes of batches {count} in "
            f"all, and each worker runs each before it is ready: at most {_MOST}; name fewer buckets"
        )
    dtypes = {name: port.dtype for name, port in filled.ports.items()}
    if not count or BYTES in dtypes.values():
        return
    began = time.monotonic()
    wanted = [{name: (size, *row) for name, row in row.items()} for row in filled.shapes() for size in sizes]
    wanted.sort(key=lambda shapes: -sum(map(math.prod, shapes.values())))
    for shapes in wanted:
        said = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        try:
            zeros = {name: np.zeros(shape, _held(dtypes[name])) for name, shape in shapes.items()}
        except (MemoryError, ValueError):  # numpy's for more bytes than an address has
            raise ConfigError(f"padding.buckets: inputs of shape {said} are too large for the memory") from None
        try:
            run(zeros)
        except Exception as error:
            raise LoadFailed(f"padding.buckets: the model cannot run with inputs of shape {said}: {error}") from error
    _log.info("inputs of %d shapes were run in %.1f s", count, time.monotonic() - began)


def _held(dtype: str) -> str:
    return "float32" if dtype == BFLOAT16 else dtype
