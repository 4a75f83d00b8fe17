"""The YAML files that Paddle's tools write beside a model when they export it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pdserver.errors import ConfigError
from pdserver.formats.values import shown


def read(path: Path) -> dict[str, Any]:
    """The mapping in the file; {} for a file with something else. Raises ConfigError when it is not YAML."""
    try:
        # Not with safe_yaml: PaddleX writes aliases into these files.
        config = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path.name}: not YAML: {shown(str(error))}") from None
    return config if isinstance(config, dict) else {}
