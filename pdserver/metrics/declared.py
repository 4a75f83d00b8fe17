"""metrics.yaml: selects TorchServe's metrics, and declares handlers' own metrics.

The file is TorchServe's (metrics_config). `ts_metrics` and `model_metrics` each have counter, gauge and histogram lists
of {name, unit, dimensions}. `dimensions` at the top is a place for YAML anchors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec

from pdserver.errors import ConfigError
from pdserver.formats.safe_yaml import load_yaml
from pdserver.formats.values import nearest, shown
from pdserver.metrics.exposition import MetricType
from pdserver.types import Declared

_SECTIONS = ("dimensions", "ts_metrics", "model_metrics")
_TYPES: tuple[MetricType, ...] = get_args(MetricType)
_FIELDS = ("name", "unit", "dimensions")


class MetricsConfig(msgspec.Struct, frozen=True):
    """The file's declarations. The default stands for no file."""

    server: Mapping[str, Declared] | None = None
    """`ts_metrics` by name. None if the section is missing, so that all are selected."""
    model: Mapping[str, Declared] = {}
    """`model_metrics` by name."""

    def wants(self, name: str) -> bool:
        """Whether TorchServe's metric `name` is to be shown or logged."""
        return self.server is None or name in self.server or name in self.model


def load_metrics_config(path: Path) -> MetricsConfig:
    """Read the file. Raises ConfigError with the place of an error."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"metrics_config={path}: {error.strerror}") from None
    loaded = load_yaml(text, str(path), aliases=True)
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: expected the sections {', '.join(_SECTIONS)}")
    for section in loaded:
        if section not in _SECTIONS:
            raise ConfigError(f"{path}: unknown section {shown(section)}{nearest(str(section), _SECTIONS)}")
    return MetricsConfig(
        server=_section(loaded, "ts_metrics", str(path)), model=_section(loaded, "model_metrics", str(path))
    )


def _section(loaded: Mapping[str, Any], section: str, where: str) -> dict[str, Declared]:
    declared: dict[str, Declared] = {}
    for metric in _declarations(loaded.get(section) or {}, f"{where}: {section}"):
        if metric.name in declared:
            raise ConfigError(f"{where}: {section}: {shown(metric.name)} is declared twice")
        declared[metric.name] = metric
    return declared


def _declarations(by_type: object, where: str) -> Iterator[Declared]:
    if not isinstance(by_type, dict) or not all(kind in _TYPES for kind in by_type):
        raise ConfigError(f"{where}: expected {', '.join(_TYPES)}, each with a list of metrics")
    for kind, metrics in by_type.items():
        if not isinstance(metrics or [], list):
            raise ConfigError(f"{where}: {kind}: expected a list of metrics")
        for metric in metrics or []:
            yield _declared(kind, metric, f"{where}: {kind}")


def _declared(kind: MetricType, metric: object, where: str) -> Declared:
    if not isinstance(metric, dict) or not set(metric) <= set(_FIELDS):
        raise ConfigError(f"{where}: {shown(metric)}: expected name, unit and dimensions")
    name, unit, dimensions = metric.get("name"), metric.get("unit", ""), metric.get("dimensions") or []
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{where}: a metric needs a name")
    if not isinstance(unit, str):
        raise ConfigError(f"{where}: {shown(name)}: the unit is a word, such as Count")
    if not isinstance(dimensions, list) or not all(isinstance(label, str) for label in dimensions):
        raise ConfigError(f"{where}: {shown(name)}: dimensions are a list of labels, such as [ModelName, Level]")
    return Declared(name, kind, unit, tuple(dimensions))
