"""YAML from strangers: plain data only, of bounded size, no key given twice."""

from __future__ import annotations

from typing import Any

import yaml

MAX_YAML_BYTES = 256 * 1024


class InvalidYaml(ValueError):
    """`str(error)` says what is wrong; `place` is ":LINE", or "" where no line is known."""

    def __init__(self, problem: str, place: str = "") -> None:
        super().__init__(problem)
        self.place = place


def load(data: bytes, *, aliases: bool = False) -> Any:
    """The value of a YAML document; None for an empty one.

    Raises InvalidYaml for more than MAX_YAML_BYTES, bad syntax, tags that would build objects, keys given twice,
    nesting of hundreds of levels, and aliases. With `aliases`, it accepts those of single values.
    """
    if len(data) > MAX_YAML_BYTES:
        raise InvalidYaml(f"{len(data)} bytes of YAML; at most {MAX_YAML_BYTES} are accepted")
    try:
        return yaml.load(data, _LoaderWithAliases if aliases else _Loader)  # noqa: S506 (a SafeLoader with more checks)
    except yaml.MarkedYAMLError as error:
        place = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InvalidYaml(str(error.problem), place) from None
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidYaml(f"not YAML: {error}") from None
    except RecursionError:
        raise InvalidYaml("nested too deeply") from None


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
                    raise yaml.MarkedYAMLError(problem=f"key {key.value!r} is given twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _LoaderWithAliases(_Loader):
    """Accepts aliases of single values, which do not multiply."""

    aliases = True
