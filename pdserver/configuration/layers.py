"""What the sources say of a model, and how their layers make its ModelSpec.

The first of these that says something of a setting wins:

    register call > `models` in config.properties > the model's own YAML > server-wide defaults
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from pdserver.configuration.model import MODEL_SETTINGS, ModelSpec, PartialSettings
from pdserver.configuration.table import Setting
from pdserver.errors import ConfigError, InvalidRequest, PdError
from pdserver.formats import strict_json
from pdserver.formats.safe_yaml import load_yaml
from pdserver.formats.values import as_number, nearest, shown, takes
from pdserver.types import SequenceHeaders

_IGNORED_MODEL_KEYS = frozenset({"defaultVersion", "marName", "runtimeType"})
"""TorchServe accepts these among a version's settings in `models`, where they have no effect."""
_BY_PARAMETER = {row.parameter: row for row in MODEL_SETTINGS.values() if row.parameter}


def parse_settings(mapping: Mapping[str, object], where: str) -> PartialSettings:
    """The settings in `mapping`, by their camelCase keys; `where` names the source in errors.

    Raises ConfigError for an unknown key and for a value of the wrong type or out of range.
    """
    for key in mapping:
        if key not in MODEL_SETTINGS:
            raise ConfigError(f"{where}: unknown key {shown(key)}{nearest(str(key), MODEL_SETTINGS)}")
    return _parse(mapping, MODEL_SETTINGS, where, ConfigError)


def parse_parameters(params: Mapping[str, str], where: str) -> PartialSettings:
    """The settings among the management API's parameters (TorchServe's names); other parameters are the caller's.

    Raises InvalidRequest for a value that is not a number or out of range.
    """
    values = {name: as_number(text) for name, text in params.items() if name in _BY_PARAMETER}
    return _parse(values, _BY_PARAMETER, where, InvalidRequest)


def _parse(
    values: Mapping[str, object], rows: Mapping[str, Setting], where: str, error: type[PdError]
) -> PartialSettings:
    parsed = {}
    for name, value in values.items():
        try:
            parsed[rows[name].field] = rows[name].parse(value)
        except ValueError as problem:
            raise error(f"{where}: {name}={shown(value)}: {problem}") from None
    return parsed


def parse_model_config(text: bytes, where: str) -> tuple[PartialSettings, dict[str, Any]]:
    """The model's own YAML → the settings among its top-level keys, and the whole of it for the handler.

    A key that is neither a setting nor nearly one is the handler's own. Raises ConfigError for text that is not a
    YAML mapping (see safe_yaml for what is refused), and for a bad or misspelt setting.
    """
    loaded = load_yaml(text, where)
    config: dict[str, Any] = {} if loaded is None else loaded
    if not isinstance(config, dict):
        raise ConfigError(f"{where}: expected keys and values (batchSize: 4), found a {type(loaded).__name__}")
    return settings_among(config, where), config


def settings_among(config: dict[str, Any], where: str) -> PartialSettings:
    """The settings among a model's own keys and values.

    Raises ConfigError for a bad or misspelt one, and for what could not be passed on to the workers.
    """
    for key in config:
        if not isinstance(key, str):
            raise ConfigError(f"{where}: the key {shown(key)} is not text; put it in quotes")
        if (meant := _near_miss(key)) is not None:
            raise ConfigError(f"{where}: unknown key {shown(key)}; did you mean {meant}?")
    for row in MODEL_SETTINGS.values():
        if row.operators and row.name in config:
            raise ConfigError(f"{where}: {row.name}: only the operator may say this, in `models` of config.properties")
    _check_portable(config, where)
    return parse_settings({key: config[key] for key in MODEL_SETTINGS if key in config}, where)


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
    if key in MODEL_SETTINGS:
        return None
    plain = {name.lower(): name for name in MODEL_SETTINGS}
    close = difflib.get_close_matches(key.lower().replace("_", "").replace("-", ""), plain, n=1, cutoff=0.85)
    return plain[close[0]] if close else None


@takes("JSON")
def settings_of_models(text: str) -> Mapping[str, Mapping[str, PartialSettings]]:
    """JSON, name → version → settings."""
    result: dict[str, dict[str, PartialSettings]] = {}
    for name, version, settings in _settings_by_version(text):
        known = {key: value for key, value in settings.items() if key not in _IGNORED_MODEL_KEYS}
        try:
            result.setdefault(name, {})[version] = parse_settings(known, f"{shown(name)} {shown(version)}")
        except ConfigError as error:
            raise ValueError(str(error)) from None
    return result


def ignored_in_models(text: str) -> list[str]:
    """The keys in `models` that are accepted and have no effect, each with its place."""
    return [
        f"models.{name}.{version}.{key}"
        for name, version, settings in _settings_by_version(text)
        for key in settings
        if key in _IGNORED_MODEL_KEYS
    ]


def _settings_by_version(text: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    expected = 'expected JSON such as {"digits": {"1.0": {"minWorkers": 1}}}'
    try:
        by_name = strict_json.loads(text.encode(errors="surrogatepass"))
    except strict_json.InvalidJson as error:
        raise ValueError(f"{expected}: {error}") from None
    if not isinstance(by_name, dict):
        raise ValueError(expected)
    for name, versions in by_name.items():
        if not isinstance(versions, dict):
            raise ValueError(f"{expected}: {shown(name)} needs versions")
        for version, settings in versions.items():
            if not isinstance(settings, dict):
                raise ValueError(f"{expected}: {shown(name)} {shown(version)} needs settings")
            yield name, version, settings


class Layer(NamedTuple):
    """What one source says of a model, and the source's name for errors."""

    where: str
    settings: PartialSettings


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
    defaults: PartialSettings,
    sequence_headers: SequenceHeaders = SequenceHeaders(),  # noqa: B008 (frozen)
) -> ModelSpec:
    """One version's spec, each setting from the first of `layers` that says something, else from `defaults`.

    `layers` come in the order of this module's first lines, `defaults` are the server's (`Config.model_defaults`).
    maxWorkers not set is no limit; minWorkers not set is the server's default, but never more than maxWorkers.
    Raises ConfigError when the settings contradict each other, naming where each comes from.
    """
    stated: dict[str, Any] = {}
    for layer in reversed(layers):
        stated |= layer.settings
    values = {**defaults, **stated}
    if "min_workers" not in stated and "max_workers" in values:
        values["min_workers"] = min(values.get("min_workers", 1), values["max_workers"])
    values.setdefault("default_priority", values.get("priority_levels", 0))
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
    _check(spec, layers)
    return spec


def _check(spec: ModelSpec, layers: Sequence[Layer]) -> None:
    def source(field: str) -> str:
        return next((layer.where for layer in layers if field in layer.settings), "default")

    model = f"model {spec.name} version {spec.version}"
    if spec.max_workers is not None and spec.min_workers > spec.max_workers:
        raise ConfigError(
            f"{model}: minWorkers={spec.min_workers} ({source('min_workers')}) is more than"
            f" maxWorkers={spec.max_workers} ({source('max_workers')}): lower the one or raise the other"
        )
    if max([spec.default_priority, *spec.priority_queue_policies]) > spec.priority_levels:
        raise ConfigError(
            f"{model}: priorityLevels={spec.priority_levels} ({source('priority_levels')}) is less than"
            f" defaultPriority={spec.default_priority} ({source('default_priority')}) or a key of"
            f" priorityQueuePolicies ({source('priority_queue_policies')})"
        )
    if spec.sequence_batching and (spec.max_requests_per_worker or spec.max_worker_memory_bytes):
        raise ConfigError(
            f"{model}: sequenceBatching with maxRequestsPerWorker or maxWorkerMemoryMb: a worker that is replaced takes"
            " the state of its sequences along: set both to 0"
        )
    if spec.device_ids and spec.device_type != "gpu":
        raise ConfigError(
            f"{model}: deviceIds={list(spec.device_ids)} ({source('device_ids')}) with deviceType={spec.device_type}"
            f" ({source('device_type')}): set deviceType to gpu"
        )
