"""Per-model settings: one table, three spellings, and how the layers make a ModelSpec.

A setting is written in camelCase in the `models` key of config.properties and in the model's own YAML, and in
snake_case as a parameter of the management API. Layers, the first that says something wins:

    register call > `models` in config.properties > the model's own YAML > server-wide defaults
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from pdserver.errors import ConfigError, InvalidRequest, PdError
from pdserver.formats.safe_yaml import load_yaml
from pdserver.formats.values import YEAR_SECONDS, as_number, nearest, number, shown, whole
from pdserver.types import ModelSettings, ModelSpec, QueuePolicy, SequenceHeaders

_MAX_LEVELS = 1000
ENVELOPES = ("body", "json", "kserve", "kservev2")
"""Ways in which requests wrap what the handler is given."""


def _milliseconds(value: object) -> float:
    return number("milliseconds", 0, 3_600_000)(value) / 1000


def _megabytes(value: object) -> int:
    return whole("megabytes", 0, 2**20)(value) << 20


def _truth(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("expected true or false")


def envelope(value: object) -> str:
    if isinstance(value, str) and value in ("", *ENVELOPES):
        return value
    raise ValueError(f"expected one of {', '.join(ENVELOPES)}, or nothing")


def _device_type(value: object) -> str:
    if isinstance(value, str) and value in ("cpu", "gpu"):
        return value
    raise ValueError("expected cpu or gpu")


def _timeout_action(value: object) -> str:
    if isinstance(value, str) and value in ("reject", "delay"):
        return value
    raise ValueError("expected reject or delay")


def _device_ids(value: object) -> tuple[int, ...]:
    expected = "expected a list of different whole numbers from 0 to 1023, such as [0, 1]"
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item <= 1023 for item in value):
        raise ValueError(expected)
    if len(set(value)) != len(value):
        raise ValueError(expected)
    return tuple(value)


def _preferred(value: object) -> tuple[int, ...]:
    expected = "expected a list of batch sizes, such as [4, 8]"
    if not isinstance(value, list) or not all(type(item) is int and 1 <= item <= 4096 for item in value):
        raise ValueError(expected)
    return tuple(sorted(set(value)))


_POLICY_KEYS: Mapping[str, tuple[str, Callable[[object], object]]] = {
    "maxQueueSize": ("max_queue_size", whole("requests", 0, 1_000_000)),
    "timeout": ("timeout_seconds", _milliseconds),
    "timeoutAction": ("timeout_action", _timeout_action),
    "allowTimeoutOverride": ("allow_timeout_override", _truth),
}


def _queue_policy(value: object) -> QueuePolicy:
    if not isinstance(value, dict):
        raise ValueError(f"expected a mapping with {', '.join(_POLICY_KEYS)}")
    fields: dict[str, Any] = {}
    for key, item in value.items():
        if key not in _POLICY_KEYS:
            raise ValueError(f"unknown key {shown(key)}{nearest(str(key), _POLICY_KEYS)}")
        field, parse = _POLICY_KEYS[key]
        try:
            fields[field] = parse(item)
        except ValueError as problem:
            raise ValueError(f"{key}: {shown(item)}: {problem}") from None
    return QueuePolicy(**fields)


def _queue_policies(value: object) -> dict[int, QueuePolicy]:
    """By priority; JSON's keys are texts."""
    if not isinstance(value, dict):
        raise ValueError("expected a mapping of priorities to policies, such as {1: {maxQueueSize: 10}}")
    policies = {}
    for key, policy in value.items():
        priority = as_number(key) if isinstance(key, str) else key
        if type(priority) is not int or not 1 <= priority <= _MAX_LEVELS:
            raise ValueError(f"{shown(key)}: expected a priority from 1 to {_MAX_LEVELS}")
        policies[priority] = _queue_policy(policy)
    return policies


@dataclass(frozen=True)
class Setting:
    """One row of the table: its camelCase key, its field in ModelSettings, its parameter ("" when it has none)."""

    key: str
    field: str
    parameter: str
    parse: Callable[[object], object]
    default: str
    help: str


SETTINGS = (
    Setting(
        "minWorkers",
        "min_workers",
        "min_worker",
        whole("workers", 0, 1024),
        "default_workers_per_model",
        "Workers that are kept running.",
    ),
    Setting(
        "maxWorkers",
        "max_workers",
        "max_worker",
        whole("workers", 0, 1024),
        "none",
        "Workers that may run at most: a call that wants more is refused unless its max_worker raises this.",
    ),
    Setting(
        "batchSize",
        "batch_size",
        "batch_size",
        whole("requests", 1, 4096),
        "1",
        "Requests that one call of the handler takes at most.",
    ),
    Setting(
        "maxBatchDelay",
        "max_batch_delay_seconds",
        "max_batch_delay",
        _milliseconds,
        "0",
        "Milliseconds that a request waits for its batch to fill; 0 sends it as soon as a worker is idle.",
    ),
    Setting(
        "responseTimeout",
        "response_timeout_seconds",
        "response_timeout",
        number("seconds", 0.001, YEAR_SECONDS),
        "default_response_timeout",
        "Seconds in which a worker must answer a batch.",
    ),
    Setting(
        "startupTimeout",
        "startup_timeout_seconds",
        "startup_timeout",
        number("seconds", 0.001, YEAR_SECONDS),
        "default_startup_timeout",
        "Seconds in which a worker must have loaded the model.",
    ),
    Setting(
        "jobQueueSize",
        "queue_size",
        "",
        whole("requests", 1, 1_000_000),
        "job_queue_size",
        "Requests that may wait for a worker; one more is refused at once.",
    ),
    Setting(
        "queuePolicy",
        "queue_policy",
        "",
        _queue_policy,
        "{}",
        "How long requests may wait, and what then: timeout (milliseconds), timeoutAction (reject or delay),"
        " allowTimeoutOverride, maxQueueSize.",
    ),
    Setting(
        "priorityLevels",
        "priority_levels",
        "",
        whole("levels", 0, _MAX_LEVELS),
        "0",
        "Priorities that requests may have: 1, the highest, to this; 0: they have none.",
    ),
    Setting(
        "defaultPriority",
        "default_priority",
        "",
        whole("levels", 0, _MAX_LEVELS),
        "priorityLevels",
        "The priority of requests that name none.",
    ),
    Setting(
        "priorityQueuePolicies",
        "priority_queue_policies",
        "",
        _queue_policies,
        "{}",
        "A queuePolicy for single priorities.",
    ),
    Setting(
        "preferredBatchSizes",
        "preferred_batch_sizes",
        "",
        _preferred,
        "[]",
        "Batch sizes that don't wait for more requests, such as [4, 8]; a batch is the largest of these that waits."
        " Once `maxBatchDelay` is over, it is all that waits, up to `batchSize`.",
    ),
    Setting(
        "responseCache",
        "response_cache",
        "",
        _truth,
        "false",
        "Whether the answer to a typed request of at most 16 MiB is kept for those that ask the same "
        "(response_cache_bytes).",
    ),
    Setting("deviceType", "device_type", "", _device_type, "cpu", "Where the workers run: cpu or gpu."),
    Setting(
        "deviceIds",
        "device_ids",
        "",
        _device_ids,
        "[]",
        "GPUs that the workers take in turn, such as [0, 1]; empty means all.",
    ),
    Setting(
        "serviceEnvelope",
        "service_envelope",
        "",
        envelope,
        "service_envelope",
        "How requests wrap what the handler is given: body, json, kserve or kservev2.",
    ),
    Setting(
        "decodeInputRequest",
        "decode_input_request",
        "",
        _truth,
        "decode_input_request",
        "Whether JSON and text are decoded for the handler.",
    ),
    Setting(
        "limitMaxImagePixels",
        "limit_max_image_pixels",
        "",
        _truth,
        "limit_max_image_pixels",
        "Whether the built-in handlers refuse images of more than max_pixels.",
    ),
    Setting(
        "useVenv",
        "use_venv",
        "",
        _truth,
        "false",
        "Whether the archive's requirements are installed, in a virtual environment.",
    ),
    Setting(
        "clientTimeoutInMills",
        "client_timeout_seconds",
        "",
        _milliseconds,
        "0",
        "Milliseconds after which a request that still waits is not run any more (504); 0: never.",
    ),
    Setting(
        "useJobTicket",
        "use_job_ticket",
        "",
        _truth,
        "false",
        "Whether a request is refused at once (503) when no worker is idle.",
    ),
    Setting(
        "maxRetryTimeoutInSec",
        "max_retry_timeout_seconds",
        "",
        number("seconds", 0, YEAR_SECONDS),
        "300",
        "Seconds with nothing but failing workers after which the version is FAILED, however few they are.",
    ),
    Setting(
        "sequenceBatching",
        "sequence_batching",
        "",
        _truth,
        "false",
        "Whether requests belong to sequences, each served in order by one worker, one request to a batch.",
    ),
    Setting(
        "maxNumSequence",
        "max_sequences",
        "",
        whole("sequences", 1, 100_000),
        "1",
        "Sequences that may be open at the same time, over all workers.",
    ),
    Setting(
        "maxSequenceJobQueueSize",
        "sequence_queue_size",
        "",
        whole("requests", 1, 1_000_000),
        "1",
        "Requests of one sequence that may wait.",
    ),
    Setting(
        "sequenceMaxIdleMSec",
        "sequence_max_idle_seconds",
        "",
        _milliseconds,
        "0",
        "Milliseconds without a request after which a sequence is closed; 0: never.",
    ),
    Setting(
        "sequenceTimeoutMSec",
        "sequence_timeout_seconds",
        "",
        _milliseconds,
        "0",
        "Milliseconds after which a sequence is closed, busy or not; 0: never.",
    ),
    Setting(
        "continuousBatching",
        "continuous_batching",
        "",
        _truth,
        "false",
        "Whether the handler is called step by step, and new requests join at every step.",
    ),
    Setting(
        "jobQueueBytes",
        "queue_bytes",
        "",
        whole("bytes", 1, 2**40),
        "job_queue_bytes",
        "Bytes that the inputs of waiting requests may have together; one more request is refused at once.",
    ),
    Setting(
        "retryOnWorkerDeath",
        "retry_on_worker_death",
        "",
        _truth,
        "true",
        "Whether requests are run once more when their worker dies; false for handlers that must not run twice.",
    ),
    Setting(
        "isolateFailures",
        "isolate_failures",
        "",
        _truth,
        "true",
        "Whether the requests of a batch that failed are run once more, one by one; false for handlers that must not"
        " run twice.",
    ),
    Setting(
        "maxWorkerDeaths",
        "max_worker_deaths",
        "",
        whole("deaths", 1, 1000),
        "5",
        "Deaths of workers within workerDeathsWindow, without an answer between them, after which the version is"
        " FAILED.",
    ),
    Setting(
        "workerDeathsWindow",
        "worker_deaths_window_seconds",
        "",
        number("seconds", 0.001, YEAR_SECONDS),
        "60",
        "Seconds within which these deaths count.",
    ),
    Setting(
        "probeInterval",
        "probe_interval_seconds",
        "",
        number("seconds", 0.001, YEAR_SECONDS),
        "30",
        "Seconds after which a worker of a FAILED version is tried again, a quarter more or less.",
    ),
    Setting(
        "maxRequestsPerWorker",
        "max_requests_per_worker",
        "",
        whole("requests", 0, 2**40),
        "0",
        "Requests after which a worker is replaced by a new one, one worker at a time; 0: never.",
    ),
    Setting(
        "maxWorkerMemoryMb",
        "max_worker_memory_bytes",
        "",
        _megabytes,
        "0",
        "Megabytes (MiB) of its own from which on a worker is replaced by a new one, one worker at a time; 0: never.",
    ),
)
BY_KEY = {setting.key: setting for setting in SETTINGS}
BY_PARAMETER = {setting.parameter: setting for setting in SETTINGS if setting.parameter}


def parse_settings(mapping: Mapping[str, object], where: str) -> ModelSettings:
    """The settings in `mapping`, by their camelCase keys; `where` names the source in errors.

    Raises ConfigError for an unknown key and for a value of the wrong type or out of range.
    """
    for key in mapping:
        if key not in BY_KEY:
            raise ConfigError(f"{where}: unknown key {shown(key)}{nearest(str(key), BY_KEY)}")
    return _settings({BY_KEY[key]: value for key, value in mapping.items()}, "key", where, ConfigError)


def parse_parameters(params: Mapping[str, str], where: str) -> ModelSettings:
    """The settings among the management API's parameters (TorchServe's names); other parameters are the caller's.

    Raises InvalidRequest for a value that is not a number or out of range.
    """
    values = {BY_PARAMETER[name]: as_number(text) for name, text in params.items() if name in BY_PARAMETER}
    return _settings(values, "parameter", where, InvalidRequest)


def _settings(values: dict[Setting, object], spelling: str, where: str, error: type[PdError]) -> ModelSettings:
    fields: dict[str, Any] = {}
    for setting, value in values.items():
        try:
            fields[setting.field] = setting.parse(value)
        except ValueError as problem:
            raise error(f"{where}: {getattr(setting, spelling)}={shown(value)}: {problem}") from None
    return ModelSettings(**fields)


def parse_model_config(text: bytes, where: str) -> tuple[ModelSettings, dict[str, Any]]:
    """The model's own YAML → the settings among its top-level keys, and the whole of it for the handler.

    A key that is neither a setting nor nearly one is the handler's own. Raises ConfigError for text that is not a
    YAML mapping (see safe_yaml for what is refused), and for a bad or misspelt setting.
    """
    loaded = load_yaml(text, where)
    config: dict[str, Any] = {} if loaded is None else loaded
    if not isinstance(config, dict):
        raise ConfigError(f"{where}: expected keys and values (batchSize: 4), found a {type(loaded).__name__}")
    for key in config:
        if not isinstance(key, str):
            raise ConfigError(f"{where}: the key {shown(key)} is not text; put it in quotes")
        if (meant := _near_miss(key)) is not None:
            raise ConfigError(f"{where}: unknown key {shown(key)}; did you mean {meant}?")
    _check_portable(config, where)
    return parse_settings({key: config[key] for key in BY_KEY if key in config}, where), config


def _check_portable(config: dict[str, Any], where: str) -> None:
    """Raises ConfigError for what could not be passed on to the workers as it is."""
    try:
        msgspec.msgpack.encode(config)
    except OverflowError:
        raise ConfigError(f"{where}: a number of more than 64 bits: write it as text, in quotes") from None
    except UnicodeEncodeError:
        raise ConfigError(f"{where}: a text with half of a surrogate pair") from None


def _near_miss(key: str) -> str | None:
    """The setting that `key` is a misspelling of: equal but for case and underscores, or all but equal."""
    if key in BY_KEY:
        return None
    plain = {setting.lower(): setting for setting in BY_KEY}
    close = difflib.get_close_matches(key.lower().replace("_", "").replace("-", ""), plain, n=1, cutoff=0.85)
    return plain[close[0]] if close else None


class Layer(NamedTuple):
    """What one source says of a model, and the source's name for errors."""

    where: str
    settings: ModelSettings


def build_spec(
    *,
    name: str,
    version: str,
    url: str,
    directory: str,
    handler: str,
    manifest: dict[str, Any],
    model_config: dict[str, Any],
    layers: Sequence[Layer],
    defaults: ModelSettings,
    sequence_headers: SequenceHeaders = SequenceHeaders(),  # noqa: B008 (frozen)
) -> ModelSpec:
    """One version's spec, each setting from the first of `layers` that says something, else from `defaults`.

    `layers` come in the order of this module's first lines, `defaults` are the server's (`Config.model_defaults`).
    maxWorkers not set is no limit; minWorkers not set is the server's default, but never more than maxWorkers.
    Raises ConfigError when the settings contradict each other, naming where each comes from.
    """
    stated = {setting.field: _first(setting, layers) for setting in SETTINGS}
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        layer = stated[setting.field]
        value = getattr(layer.settings if layer else defaults, setting.field)
        if value is not None:
            values[setting.field] = value
    minimum = values.get("min_workers", 1)
    values.setdefault("default_priority", values.get("priority_levels", 0))
    values["min_workers"] = minimum if stated["min_workers"] else min(minimum, values.get("max_workers", minimum))
    spec = ModelSpec(
        name=name,
        version=version,
        url=url,
        directory=directory,
        handler=handler,
        manifest=manifest,
        model_config=model_config,
        sequence_headers=sequence_headers,
        **values,
    )
    _check(spec, stated)
    return spec


def _first(setting: Setting, layers: Sequence[Layer]) -> Layer | None:
    return next((layer for layer in layers if getattr(layer.settings, setting.field) is not None), None)


def _check(spec: ModelSpec, stated: Mapping[str, Layer | None]) -> None:
    def source(field: str) -> str:
        layer = stated[field]
        return layer.where if layer else "default"

    if spec.max_workers is not None and spec.min_workers > spec.max_workers:
        raise ConfigError(
            f"model {spec.name} version {spec.version}: minWorkers={spec.min_workers} ({source('min_workers')}) is"
            f" more than maxWorkers={spec.max_workers} ({source('max_workers')}): lower the one or raise the other"
        )
    if spec.default_priority > spec.priority_levels or any(
        priority > spec.priority_levels for priority in spec.priority_queue_policies
    ):
        raise ConfigError(
            f"model {spec.name} version {spec.version}: priorityLevels={spec.priority_levels}"
            f" ({source('priority_levels')}) is less than defaultPriority={spec.default_priority}"
            f" ({source('default_priority')}) or a key of priorityQueuePolicies ({source('priority_queue_policies')})"
        )
    if spec.sequence_batching and (spec.max_requests_per_worker or spec.max_worker_memory_bytes):
        raise ConfigError(
            f"model {spec.name} version {spec.version}: sequenceBatching with maxRequestsPerWorker or"
            " maxWorkerMemoryMb: a worker that is replaced takes the state of its sequences along: set both to 0"
        )
    if spec.device_ids and spec.device_type != "gpu":
        raise ConfigError(
            f"model {spec.name} version {spec.version}: deviceIds={list(spec.device_ids)} ({source('device_ids')})"
            f" with deviceType={spec.device_type} ({source('device_type')}): set deviceType to gpu"
        )
