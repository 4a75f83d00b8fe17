"""The section `samples` of a model's own YAML: requests of the model, with a file beside the YAML for each input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pdarchiver.errors import PackingError
from pdarchiver.manifest import Signature
from pdarchiver.names import path_problem

SUFFIXES = (".npy", ".json")


def files(config: Mapping[str, Any], path: Path, signature: Signature | None) -> Iterator[str]:
    """The files' places beside the YAML, which is `path`. Raises PackingError for a wrong section."""
    section = config.get("samples")
    if section is None or signature is None:
        return
    if not isinstance(section, list) or not all(isinstance(sample, dict) for sample in section):
        raise PackingError(
            f"{path}: samples: expected a list of requests, each with a file for each input, such as [{{x: x.npy}}], "
            f"found {repr(section)[:100]}"
        )
    inputs = {spec.name for spec in signature.inputs}
    for number, sample in enumerate(section):
        if sample.keys() != inputs:
            raise PackingError(
                f"{path}: samples[{number}] has {_listed(sample)}, and the model's inputs are {_listed(inputs)}"
            )
        for name, file in sample.items():
            at = f"{path}: samples[{number}].{name}: {repr(file)[:100]}"
            if not isinstance(file, str) or not file.endswith(SUFFIXES):
                raise PackingError(f"{at}: expected a .npy file, or a .json file with nested lists")
            if problem := path_problem(file):
                raise PackingError(f"{at} {problem}; name a file beside the config file")
            yield file


def _listed(names: Any) -> str:
    return ", ".join(sorted(map(str, names)))[:200] or "no files"
