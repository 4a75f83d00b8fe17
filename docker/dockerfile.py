"""Reads a Dockerfile: its stages, and the steps of each. It knows what those of this folder use, nothing else."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

_STEPS = {"RUN", "COPY", "ENV", "USER", "WORKDIR"}
_ABOUT = {"LABEL", "EXPOSE", "HEALTHCHECK", "VOLUME", "ENTRYPOINT", "CMD"}


@dataclass
class Step:
    """`name` is RUN, COPY, ENV, USER or WORKDIR."""

    name: str
    text: str


@dataclass
class Stage:
    image: str
    """What it begins with: `debian:trixie-slim`."""
    name: str
    """Empty for the last stage, which is the image."""
    steps: list[Step] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)
    """LABEL, EXPOSE, HEALTHCHECK, VOLUME, ENTRYPOINT, CMD."""

    def command(self, name: str) -> list[str]:
        """ENTRYPOINT, CMD or VOLUME, which are lists in JSON."""
        found: list[str] = json.loads(self.about.get(name, "[]"))
        return found

    def health_check(self) -> list[str]:
        found: list[str] = json.loads(self.about["HEALTHCHECK"].partition(" CMD ")[2])
        return found

    def variables(self) -> list[tuple[str, str]]:
        """Of all ENV steps, in their order."""
        return [pair for step in self.steps if step.name == "ENV" for pair in variables(step.text)]

    def last(self, name: str, default: str) -> str:
        """What the last such step says: USER, WORKDIR."""
        return next((step.text for step in reversed(self.steps) if step.name == name), default)


def read(path: Path) -> list[Stage]:
    """The stages. Raises ValueError for what is not known here."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    stages: list[Stage] = []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        name, _, rest = line.strip().partition(" ")
        if name == "FROM":
            image, _, alias = rest.partition(" AS ")
            stages.append(Stage(image, alias))
        elif name in _STEPS:
            stages[-1].steps.append(Step(name, rest))
        elif name in _ABOUT:
            stages[-1].about[name] = rest
        elif name:
            raise ValueError(f"{path}: {name}: expected one of FROM, {', '.join(sorted(_STEPS | _ABOUT))}")
    return stages


def variables(text: str) -> list[tuple[str, str]]:
    """Of `NAME="value" OTHER="value"`."""
    pairs = [word.partition("=") for word in shlex.split(text)]
    return [(name, value) for name, _, value in pairs]
