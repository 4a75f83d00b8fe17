"""The names of a model's classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdarchiver.errors import InvalidText
from pdarchiver.labels import LABEL_FILES
from pdarchiver.labels import read as read_labels
from pdserver.errors import ConfigError, InvalidRequest
from pdserver.formats.values import nearest, shown
from pdserver.types import Binary


class Labels:
    """Class → name. If several classes share a name, the class is added to it, so that each label is unique."""

    def __init__(self, names: Mapping[int, str]) -> None:
        counts = Counter(names.values())
        self._names = {i: name if counts[name] == 1 else f"{name} ({i})" for i, name in names.items()}

    @property
    def known(self) -> dict[int, str]:
        """The names, of classes that have one."""
        return self._names

    def __getitem__(self, index: int) -> str:
        """The class's name, or its number if it has none."""
        return self._names.get(index) or str(index)

    def index(self, wanted: Any, chances: NDArray[np.float32]) -> int:
        """The class that a request names, by its name or number, or else the likeliest of `chances`.

        Raises InvalidRequest when there is no such class.
        """
        if wanted is None:
            return int(chances.argmax())
        text = wanted.decode(errors="replace") if isinstance(wanted, Binary) else str(wanted)
        numbers = {name: i for i, name in self._names.items()}
        numbers = {str(i): i for i in range(len(chances))} | numbers
        found = numbers.get(text)
        if found is None or found >= len(chances):
            raise InvalidRequest(f"target: the model has no class {shown(text)}{nearest(text, numbers)}")
        return found


def read(directory: Path, listed: Sequence[str] | None) -> Labels:
    """Labels from the first of LABEL_FILES in `directory`, else `listed`, else none. Raises as `names` does."""
    path = next((path for name in LABEL_FILES if (path := directory / name).is_file()), None)
    return Labels(names(path) if path else dict(enumerate(listed or ())))


def names(path: Path) -> dict[int, str]:
    """The file's names by class. Raises ConfigError for a file of another form."""
    try:
        return read_labels(path.read_bytes(), path.name)
    except InvalidText as error:
        raise ConfigError(str(error)) from None
