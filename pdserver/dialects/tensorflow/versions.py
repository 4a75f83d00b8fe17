"""TensorFlow Serving's versions are whole numbers, ours are names: "3", "3.0" and "3.0.0" are its version 3."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from pdserver.dialects.tensorflow.control import Control
from pdserver.dialects.tensorflow.errors import unknown_latest, unknown_version
from pdserver.engine.catalogue import Catalogue, ServedVersion
from pdserver.errors import Missing, ModelNotFound, NotServed

_NUMBER = re.compile(r"([0-9]{1,19})(?:\.0){0,2}", re.ASCII)
_LARGEST = 2**63 - 1


@lru_cache(maxsize=4096)
def number(version: str) -> int | None:
    """The number of a version of ours; None if its name is none."""
    found = _NUMBER.fullmatch(version)
    value = int(found[1]) if found else _LARGEST + 1
    return value if value <= _LARGEST else None


def numbered(versions: Mapping[str, ServedVersion], version: int) -> ServedVersion | None:
    """The one of a model's versions that has the number, by the plainest name for it."""
    return versions.get(str(version)) or next((versions[name] for name in versions if number(name) == version), None)


def find(catalogue: Catalogue, control: Control, model: str, version: int | None, label: str) -> ServedVersion:
    """What a prediction means: the version with this number, or with this label, else the default version.

    Raises ModelNotFound, VersionNotFound, InvalidRequest in TensorFlow Serving's words.
    """
    if label:
        named = control.version_of(model, label)
        try:
            return catalogue.resolve(model, named)
        except NotServed:
            raise unknown_version(model, named) from None
    if version is None:
        return default_of(catalogue, model)
    try:
        found = numbered(catalogue.model(model).versions, version)
    except ModelNotFound:
        raise unknown_version(model, version) from None
    if found is None:
        raise unknown_version(model, version)
    return found


def default_of(catalogue: Catalogue, model: str) -> ServedVersion:
    """Raises ModelNotFound."""
    try:
        return catalogue.asked(model, None)
    except NotServed as error:
        raise unknown_latest(error.missing or Missing(model)) from None
