"""The YAML files that Paddle's tools write beside a model when they export it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pdserver.errors import ConfigError
from pdserver.formats.values import shown

Step = Callable[[dict[str, Any]], dict[str, Any]]
"""The parameters of a step of preparation → keys of ImageSettings."""


def read(path: Path) -> dict[str, Any]:
    """The mapping in the file; {} for a file with something else. Raises ConfigError when it is not YAML."""
    try:
        # Not with safe_yaml: PaddleX writes aliases into these files.
        config = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path.name}: not YAML: {shown(str(error))}") from None
    return config if isinstance(config, dict) else {}


def typed_steps(steps: Any, where: str, file: str) -> list[tuple[Any, dict[str, Any]]]:
    """The steps of a list in which each is a mapping with its name as `type`. Raises ConfigError for another list."""
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise ConfigError(f"{file}: expected a list of steps called {where}")
    return [(step.get("type"), step) for step in steps]


def image_settings(steps: Iterable[tuple[Any, dict[str, Any]]], known: Mapping[str, Step], file: str) -> dict[str, Any]:
    """The steps, each a name and its parameters, as keys of ImageSettings. A step that is not listed is not done.

    Raises ConfigError for steps and parameters that are not `known`, or come twice: any other input would be wrong.
    """
    settings: dict[str, Any] = {}
    for name, parameters in steps:
        if not isinstance(name, str) or name not in known:
            raise ConfigError(f"{file}: {shown(name)} is not a known step; known are {', '.join(known)}")
        try:
            found = known[name](parameters)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{file}: {name}: {type(error).__name__}: {error}") from None
        if twice := settings.keys() & found.keys():
            raise ConfigError(f"{file}: {name}: an earlier step says {min(twice)} already; pictures take one of each")
        settings |= found
    return {"scale": 1.0, "mean": [0.0], "std": [1.0], **settings}
