"""TensorFlow Serving's batching parameters → this server's settings.

Source of the fields, of their defaults and of what they mean: session_bundle_config.proto and
shared_batch_scheduler.h. Their batches are counted in rows, and so are ours.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from pdserver.configuration.model import MAX_QUEUE_SIZE, MODEL_SETTINGS, PartialSettings
from pdserver.dialects.protos import message_class
from pdserver.dialects.protos.text import content, parse
from pdserver.errors import ConfigError
from pdserver.formats.values import shown

BatchingParameters = message_class("tensorflow.serving.BatchingParameters")
PER_MODEL_FILE = "batching_params.pbtxt"
"""In a version's folder, with --enable_per_model_batching_parameters."""
_BATCH_SIZE = 1000
_ENQUEUED_BATCHES = 10
_UNASKED_BATCH_SIZE = 32


class Batching(msgspec.Struct, frozen=True):
    """What the parameters say of a model."""

    settings: PartialSettings
    pads: bool = False
    """Whether inputs of different lengths share a batch, where the model allows it."""
    warnings: Sequence[str] = ()
    """What has another effect than the operator may expect."""

    @property
    def sections(self) -> dict[str, Any]:
        """What belongs into the model's own YAML."""
        return {"padding": {"where_possible": True}} if self.pads else {}


UNASKED = Batching({"batch_size": _UNASKED_BATCH_SIZE})
"""Without --enable_batching: an idle worker takes what waits, and nothing waits for company. TensorFlow Serving runs
each request by itself then, beside others; a worker would have to run them one after the other."""


def settings_of(text: str, where: str) -> Batching:
    """Raises ConfigError with the line of an unknown field, or with the field, its value and the fix."""
    given = parse(text, BatchingParameters, where)
    largest = _largest(given, where)
    waiting = _number(given, "max_enqueued_batches", _ENQUEUED_BATCHES, where) * largest
    settings: dict[str, Any] = {
        "batch_size": largest,
        "max_batch_delay_seconds": _checked(
            "maxBatchDelay", given.batch_timeout_micros.value / 1000, "batch_timeout_micros",
            given.batch_timeout_micros.value, where,
        ),
        "queue_size": min(waiting, MAX_QUEUE_SIZE),
    }  # fmt: skip
    if given.allowed_batch_sizes:
        settings["allowed_batch_sizes"] = _allowed(given, largest, where)
    warnings: list[str] = []
    if given.HasField("num_batch_threads"):
        settings["min_workers"] = _workers(given, where, warnings)
    if given.HasField("thread_pool_name"):
        warnings.append(f"{where}: thread_pool_name has no effect: there is no pool of threads")
    if given.HasField("max_execution_batch_size") and not given.enable_large_batch_splitting.value:
        warnings.append(f"{where}: max_execution_batch_size has no effect without enable_large_batch_splitting")
    return Batching(settings, given.pad_variable_length_inputs, warnings)


def read(path: Path) -> Batching:
    """Read a file for --batching_parameters_file. Raises ConfigError."""
    return settings_of(content(path, str(path)), str(path))


def of_version(folder: Path, common: Batching) -> Batching:
    """Read the parameters in a version's folder, of which --enable_per_model_batching_parameters speaks. A version
    without any has no others. `common` gives the number of workers alone. Raises ConfigError."""
    path = folder / PER_MODEL_FILE
    own = read(path) if path.exists() else UNASKED
    shared = {field: value for field, value in common.settings.items() if field == "min_workers"}
    settings = {field: value for field, value in own.settings.items() if field != "min_workers"}
    return msgspec.structs.replace(own, settings=settings | shared)


def _largest(given: Any, where: str) -> int:
    """The most rows of a batch."""
    largest = _number(given, "max_batch_size", _BATCH_SIZE, where)
    field = "max_batch_size"
    if given.enable_large_batch_splitting.value and given.HasField("max_execution_batch_size"):
        field = "max_execution_batch_size"
        most, largest = largest, _number(given, field, _BATCH_SIZE, where)
        if largest > most:
            raise ConfigError(f"{where}: {field}: {largest}: expected at most max_batch_size, which is {most}")
    return int(_checked("batchSize", largest, field, largest, where))


def _allowed(given: Any, largest: int, where: str) -> tuple[int, ...]:
    sizes = tuple(given.allowed_batch_sizes)
    field = f"{where}: allowed_batch_sizes: {shown(list(sizes))}"
    if sizes[0] < 1 or any(before >= after for before, after in pairwise(sizes)):
        raise ConfigError(f"{field}: expected sizes from 1 on that ascend, such as 1, 4, 16")
    if sizes[-1] != largest:
        split = given.enable_large_batch_splitting.value and given.HasField("max_execution_batch_size")
        name = "max_execution_batch_size" if split else "max_batch_size"
        raise ConfigError(f"{field}: the last one must be {name}, which is {largest}")
    return sizes


def _workers(given: Any, where: str, warnings: list[str]) -> int:
    """A worker for each thread, since it runs one batch at a time, but no more than there are processors."""
    threads = int(_checked("minWorkers", _number(given, "num_batch_threads", 1, where), "num_batch_threads",
                           given.num_batch_threads.value, where))  # fmt: skip
    processors = len(os.sched_getaffinity(0))
    if threads > processors:
        warnings.append(
            f"{where}: num_batch_threads: {threads}: {processors} workers for each model, as there are {processors}"
            " processors; minWorkers in the model's config file says another number"
        )
    return min(threads, processors)


def _number(given: Any, field: str, default: int, where: str) -> int:
    """A number that is 1 at least, or the default if it is not given."""
    value: int = getattr(given, field).value if given.HasField(field) else default
    if value < 1:
        raise ConfigError(f"{where}: {field}: {value}: expected 1 or more; leave it out for {default}")
    return value


def _checked(key: str, value: float, field: str, said: int, where: str) -> Any:
    """The value as the setting of this key has it. `said` is what the file has for `field`. Raises ConfigError."""
    try:
        return MODEL_SETTINGS[key].parse(value)
    except ValueError as error:
        raise ConfigError(f"{where}: {field}: {said}: {error} (it becomes {key})") from None
