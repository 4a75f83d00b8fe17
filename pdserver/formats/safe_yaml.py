"""YAML that strangers wrote: plain data only, of bounded size, nothing given twice."""

from __future__ import annotations

from typing import Any

import yaml

from pdserver.errors import ConfigError
from pdserver.formats.values import shown

MAX_YAML_BYTES = 256 * 1024


def load_yaml(text: bytes, where: str, *, aliases: bool = False) -> Any:
    """The value of the YAML document `text`; None for an empty one. `where` names it in errors.

    Raises ConfigError, with the line where there is one, for text over MAX_YAML_BYTES, bad syntax, tags that would
    build objects, keys given twice and nesting of hundreds of levels. Aliases are refused, too; with `aliases`, those
    of lists and mappings alone.
    """
    if len(text) > MAX_YAML_BYTES:
        raise ConfigError(f"{where}: {len(text)} bytes of YAML; at most {MAX_YAML_BYTES} are accepted")
    try:
        loader = _LoaderWithAliases if aliases else _Loader
        return yaml.load(text, loader)  # noqa: S506 (a SafeLoader with further checks)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{where}{line}: {shown(str(error.problem))}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{where}: not YAML: {shown(str(error))}") from None
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply") from None


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses aliases (a few lines of them stand for gigabytes) and keys that are given twice."""

    aliases = False

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            if not (self.aliases and isinstance(self.anchors.get(event.anchor), yaml.ScalarNode)):
                raise yaml.MarkedYAMLError(
                    problem="aliases (*name) are not accepted: write the value out", problem_mark=event.start_mark
                )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"key {shown(key.value)} is given twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _LoaderWithAliases(_Loader):
    """Accepts those of single values, which don't multiply."""

    aliases = True
