"""Reads the model's own YAML file (`--config-file`), and the names that it gives to tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pdarchiver import safe_yaml
from pdarchiver.errors import PackingError


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises PackingError for what `safe_yaml.load` refuses, and for other values."""
    try:
        config = safe_yaml.load(path.read_bytes())
    except safe_yaml.InvalidYaml as error:
        raise PackingError(f"{path}{error.place}: {str(error)[:200]}") from None
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise PackingError(f"{path}: expected a mapping (key: value), found a {type(config).__name__}")
    if odd := [key for key in config if not isinstance(key, str)]:
        raise PackingError(f"{path}: the key {odd[0]!r} is not text; put it in quotes")
    return config


def public_names(config: Mapping[str, Any], section: str, path: Path) -> dict[str, str]:
    """The section `inputs` or `outputs` of a model's config: the model's own name → public name."""
    names = config.get(section)
    if names is None:
        return {}
    if not isinstance(names, dict) or not all(
        isinstance(text, str) and text and text.isprintable() for pair in names.items() for text in pair
    ):
        raise PackingError(f"{path}: {section}: expected a mapping of the model's names to public names, both text")
    return names
