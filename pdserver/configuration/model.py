# ruff: noqa: RUF009  (the tables' rows are made by a function)
"""What can be set for one model: each field of ModelSettings is the one place for its setting.

A setting is written in camelCase in the `models` key of config.properties and in the model's own YAML. Those that calls
of the management API can change have a parameter, in snake_case. `configuration.layers` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pdserver.configuration.table import camel_case, setting, table
from pdserver.formats.values import (
    YEAR_SECONDS,
    as_number,
    boolean,
    megabytes,
    milliseconds,
    nearest,
    number,
    one_of,
    shown,
    takes,
    whole,
)
from pdserver.types import ModelRef, SequenceHeaders

MAX_WORKERS = 1024
MAX_BATCH_SIZE = 4096
MAX_QUEUE_SIZE = 1_000_000
MAX_LEVELS = 1000
ENVELOPES = ("body", "json", "kserve", "kservev2")
"""Ways in which requests wrap what the handler is given."""


@takes("ENVELOPE")
def envelope(value: object) -> str:
    if isinstance(value, str) and value in ("", *ENVELOPES):
        return value
    raise ValueError(f"expected one of {', '.join(ENVELOPES)}, or nothing")


@takes("FILE")
def key_file(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("expected the path of a file")


@takes("NUMBERS")
def _device_ids(value: object) -> tuple[int, ...]:
    expected = "expected a list of different whole numbers from 0 to 1023, such as [0, 1]"
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item <= 1023 for item in value):
        raise ValueError(expected)
    if len(set(value)) != len(value):
        raise ValueError(expected)
    return tuple(value)


@takes("NUMBERS")
def _batch_sizes(value: object) -> tuple[int, ...]:
    expected = "expected a list of batch sizes, such as [4, 8]"
    if not isinstance(value, list) or not all(type(item) is int and 1 <= item <= MAX_BATCH_SIZE for item in value):
        raise ValueError(expected)
    return tuple(sorted(set(value)))


_workers = whole("workers", 0, MAX_WORKERS)
_seconds = number("seconds", 0.001, YEAR_SECONDS)
_levels = whole("levels", 0, MAX_LEVELS)
_queued = whole("requests", 1, MAX_QUEUE_SIZE)


@dataclass(frozen=True, kw_only=True)
class QueuePolicy:
    """How long requests may wait, and how many."""

    max_queue_size: int = setting(
        whole("requests", 0, MAX_QUEUE_SIZE), 0, "Requests that may wait; 0: as many as the queue holds."
    )
    timeout_seconds: float = setting(milliseconds, 0, "Milliseconds that a request may wait; 0: for ever.")
    timeout_action: str = setting(
        one_of("reject", "delay"),
        "reject",
        "What happens to a request that has waited longer: it fails, or it goes behind those that have not.",
    )
    allow_timeout_override: bool = setting(
        boolean, True, "Set false to ignore requests that ask for less time than that."
    )


_POLICY = table(QueuePolicy, camel_case)


@takes("POLICY")
def _queue_policy(value: object) -> QueuePolicy:
    if not isinstance(value, dict):
        raise ValueError(f"expected a mapping with {', '.join(_POLICY)}")
    fields: dict[str, Any] = {}
    for key, item in value.items():
        if key not in _POLICY:
            raise ValueError(f"unknown key {shown(key)}{nearest(str(key), _POLICY)}")
        try:
            fields[_POLICY[key].field] = _POLICY[key].parse(item)
        except ValueError as problem:
            raise ValueError(f"{key}: {shown(item)}: {problem}") from None
    return QueuePolicy(**fields)


@takes("POLICIES")
def _queue_policies(value: object) -> dict[int, QueuePolicy]:
    """By priority; JSON's keys are texts."""
    if not isinstance(value, dict):
        raise ValueError("expected a mapping of priorities to policies, such as {1: {maxQueueSize: 10}}")
    policies = {}
    for key, policy in value.items():
        priority = as_number(key) if isinstance(key, str) else key
        if type(priority) is not int or not 1 <= priority <= MAX_LEVELS:
            raise ValueError(f"{shown(key)}: expected a priority from 1 to {MAX_LEVELS}")
        policies[priority] = _queue_policy(policy)
    return policies


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """What holds for one version of a model. `ModelSettings()` is the defaults of a server that sets none."""

    min_workers: int = setting(
        _workers, 1, "Workers that are kept running.", parameter="min_worker", fallback="default_workers_per_model"
    )
    max_workers: int | None = setting(
        _workers,
        None,
        "The most workers. A call that wants more is refused unless its `max_worker` raises this.",
        parameter="max_worker",
    )
    batch_size: int = setting(
        whole("requests", 1, MAX_BATCH_SIZE),
        1,
        "The most requests that one call of the handler takes.",
        parameter="batch_size",
        described=True,
    )
    max_batch_delay_seconds: float = setting(
        milliseconds,
        0,
        "Milliseconds that a request waits for its batch to fill; 0 sends it as soon as a worker is idle.",
        parameter="max_batch_delay",
        described=True,
    )
    response_timeout_seconds: float = setting(
        _seconds,
        120,
        "Seconds in which a worker must answer a batch.",
        parameter="response_timeout",
        fallback="default_response_timeout",
        described=True,
    )
    startup_timeout_seconds: float = setting(
        _seconds,
        120,
        "Seconds in which a worker must have loaded the model.",
        parameter="startup_timeout",
        fallback="default_startup_timeout",
        described=True,
    )
    queue_size: int = setting(
        _queued,
        100,
        "Requests that may wait for a worker; one more is refused at once.",
        name="jobQueueSize",
        fallback="job_queue_size",
    )
    queue_policy: QueuePolicy = setting(
        _queue_policy,
        {},
        "How long requests may wait, and what happens then: timeout (milliseconds), timeoutAction (reject or delay),"
        " allowTimeoutOverride, maxQueueSize.",
    )
    priority_levels: int = setting(
        _levels, 0, "The number of priorities: 1 is the highest, this number the lowest. 0: requests have no priority."
    )
    default_priority: int = setting(_levels, 0, "The priority of requests that name none.", fallback="priorityLevels")
    priority_queue_policies: dict[int, QueuePolicy] = setting(
        _queue_policies, {}, "Policies for single priorities. The others have queuePolicy."
    )
    preferred_batch_sizes: tuple[int, ...] = setting(
        _batch_sizes,
        [],
        "Batch sizes that don't wait for more requests, such as [4, 8]. A batch has the largest of these sizes that"
        " the waiting requests fill. Once `maxBatchDelay` is over, it has all that wait, up to `batchSize`.",
    )
    allowed_batch_sizes: tuple[int, ...] = setting(
        _batch_sizes,
        [],
        "The numbers of rows that a run of the model may have, such as [1, 4, 16]; empty: any. Batches between two of"
        " them are filled up with copies of a row, and larger ones run in pieces. For models whose first axis is the"
        " batch.",
    )
    response_cache: bool = setting(
        boolean,
        False,
        "Set true to keep the answer to a typed request of at most 16 MiB for requests that ask the same"
        " (response_cache_bytes).",
    )
    device_type: str = setting(one_of("cpu", "gpu"), "cpu", "Where the workers run: cpu or gpu.", described=True)
    device_ids: tuple[int, ...] = setting(
        _device_ids, [], "GPUs that the workers take in turn, such as [0, 1]; empty: all of them.", described=True
    )
    service_envelope: str = setting(
        envelope,
        "",
        "How requests wrap what the handler is given: body, json, kserve or kservev2.",
        fallback="service_envelope",
    )
    decode_input_request: bool = setting(
        boolean,
        True,
        "Set false to give the handler JSON and text without decoding them.",
        fallback="decode_input_request",
    )
    limit_max_image_pixels: bool = setting(
        boolean,
        True,
        "Set false to let the built-in handlers take images of more than max_pixels.",
        fallback="limit_max_image_pixels",
    )
    model_key_file: str = setting(
        key_file,
        "",
        "The file with the key of an encrypted model. The model's own YAML can't say it.",
        fallback="model_key_file",
        operators=True,
    )
    use_venv: bool = setting(boolean, False, "Set true to install the archive's requirements in a virtual environment.")
    client_timeout_seconds: float = setting(
        milliseconds,
        0,
        "Milliseconds after which a request that still waits fails (504) without being run; 0: never.",
        name="clientTimeoutInMills",
        described=True,
    )
    use_job_ticket: bool = setting(
        boolean, False, "Set true to refuse a request at once (503) when no worker is idle.", described=True
    )
    max_retry_timeout_seconds: float = setting(
        number("seconds", 0, YEAR_SECONDS),
        300,
        "Seconds. When workers have only failed for so long, the version is FAILED, however few failures there were.",
        name="maxRetryTimeoutInSec",
        described=True,
    )
    sequence_batching: bool = setting(
        boolean,
        False,
        "Set true for requests that belong to sequences. One worker serves a sequence, in order, one request to a"
        " batch.",
    )
    max_sequences: int = setting(
        whole("sequences", 1, 100_000),
        1,
        "Sequences that may be open at the same time, over all workers.",
        name="maxNumSequence",
    )
    sequence_queue_size: int = setting(
        _queued, 1, "Requests of one sequence that may wait.", name="maxSequenceJobQueueSize"
    )
    sequence_max_idle_seconds: float = setting(
        milliseconds,
        0,
        "Milliseconds without a request after which a sequence is closed; 0: never.",
        name="sequenceMaxIdleMSec",
        described=True,
    )
    sequence_timeout_seconds: float = setting(
        milliseconds,
        0,
        "Milliseconds after which a sequence is closed, busy or not; 0: never.",
        name="sequenceTimeoutMSec",
        described=True,
    )
    continuous_batching: bool = setting(
        boolean,
        False,
        "Set true to call the handler step by step. New requests join at every step.",
        described=True,
    )
    queue_bytes: int = setting(
        whole("bytes", 1, 2**40),
        256 * 1024 * 1024,
        "Bytes that the inputs of waiting requests may have together; one more request is refused at once.",
        name="jobQueueBytes",
        fallback="job_queue_bytes",
    )
    retry_on_worker_death: bool = setting(
        boolean,
        True,
        "Set false for handlers that must not run twice. Otherwise requests run once more when their worker dies.",
    )
    isolate_failures: bool = setting(
        boolean,
        True,
        "Set false for handlers that must not run twice. Otherwise the requests of a failed batch run once more, one"
        " by one.",
    )
    max_worker_deaths: int = setting(
        whole("deaths", 1, 1000),
        5,
        "The version is FAILED after so many deaths of workers within workerDeathsWindow, with no answer between them.",
    )
    worker_deaths_window_seconds: float = setting(_seconds, 60, "Seconds within which these deaths count.")
    probe_interval_seconds: float = setting(
        _seconds, 30, "Seconds after which a worker of a FAILED version is tried again, a quarter more or less."
    )
    max_requests_per_worker: int = setting(
        whole("requests", 0, 2**40),
        0,
        "Requests after which a worker is replaced by a new one, one worker at a time; 0: never.",
    )
    max_worker_memory_bytes: int = setting(
        megabytes,
        0,
        "A worker with so much memory of its own (MiB) is replaced by a new one, one worker at a time; 0: never.",
        name="maxWorkerMemoryMb",
    )


MODEL_SETTINGS = table(ModelSettings, camel_case)
"""By their keys."""

PartialSettings: TypeAlias = Mapping[str, Any]
"""What one source says of a model: values by the fields of ModelSettings. What it leaves open is not in it."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec(ModelSettings):
    """All that the engine and a worker need to know of one version of a model."""

    name: str
    version: str
    url: str
    """What the operator named: the archive's file name in the store."""
    directory: str
    """Where the archive is unpacked."""
    handler: str
    """A built-in handler's name, `file.py`, or `file.py:function`."""
    manifest: dict[str, Any]
    model_config: dict[str, Any]
    """The model's own YAML, whole: handlers read their sections of it."""
    python: str = ""
    """The interpreter of the model's own environment; empty: its workers are forked from the server's nursery."""
    sequence_headers: SequenceHeaders = SequenceHeaders()
    trials: str = ""
    """The folder that remembers which engine runs which model best; empty: none does."""
    is_step: bool = False
    """Whether its handler is a pipeline's step in Python."""
    key: bytes = field(default=b"", repr=False)
    """What decrypts the model, where it is encrypted. No log, answer or snapshot may show it."""

    @property
    def ref(self) -> ModelRef:
        return ModelRef(self.name, self.version)
