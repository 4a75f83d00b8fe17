"""Reads the model's own YAML file (`--config-file`): plain data of bounded size, and the names of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pdarchiver.errors import PackingError

MAX_CONFIG_BYTES = 256 * 1024


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises PackingError, with the line if there is one, for a file that is too long, is
    not a mapping, or has tags that would build objects, repeated keys, or aliases."""
    data = path.read_bytes()
    if len(data) > MAX_CONFIG_BYTES:
        raise PackingError(f"{path}: {len(data)} bytes of YAML; at most {MAX_CONFIG_BYTES} are accepted")
    try:
        config = yaml.load(data, _Loader)  # noqa: S506 (a SafeLoader with further checks)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise PackingError(f"{path}{line}: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PackingError(f"{path}: not YAML: {str(error)[:200]}") from None
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


class _Loader(yaml.SafeLoader):
    """SafeLoader without aliases (a few lines of them can stand for gigabytes) and without repeated keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases (*name) are refused: write the value out", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        seen: set[str] = set()
        for key in keys:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value!r} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)
