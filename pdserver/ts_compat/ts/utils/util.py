"""`ts.utils.util`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from pdserver.handlers.runtime import labels as _labels
from pdserver.handlers.runtime.answers import PredictionException as PredictionException


def list_classes_from_module(module: ModuleType, parent_class: type | None = None) -> list[type]:
    """The classes that `module` defines and does not import; with `parent_class`, those derived from it."""
    own = [value for _, value in inspect.getmembers(module, inspect.isclass) if value.__module__ == module.__name__]
    return [value for value in own if parent_class is None or issubclass(value, parent_class)]


def load_label_mapping(mapping_file_path: str) -> dict[str, str] | None:
    """Class, as a string → name, from an index_to_name.json; None when there is no such file.

    Raises ConfigError for one that has none of the shapes that the built-in handlers read.
    """
    path = Path(mapping_file_path)
    return {str(index): name for index, name in _labels.names(path).items()} if path.is_file() else None


def map_class_to_label(
    probs: Sequence[Sequence[Any]],
    mapping: Mapping[str, str] | None = None,
    lbl_classes: Iterable[Iterable[Any]] | None = None,
) -> list[dict[str, Any]]:
    """{name: probability} for each row of `probs`, whose columns are the classes 0, 1, … or those of `lbl_classes`.

    `probs` is [rows, classes]; `mapping` is class, as a string → name. Raises TypeError when `probs` is not a list or
    `mapping` not a dictionary, KeyError for a class that `mapping` does not have.
    """
    if not isinstance(probs, list):
        raise TypeError(f"probs is {type(probs).__name__}, not a list of rows: convert it with .tolist()")
    if mapping is not None and not isinstance(mapping, Mapping):
        raise TypeError(f"mapping is {type(mapping).__name__}, not a dictionary")
    classes = [range(len(row)) for row in probs] if lbl_classes is None else lbl_classes
    return [
        {str(index) if mapping is None else mapping[str(index)]: value for index, value in zip(row_classes, row)}  # noqa: B905
        for row_classes, row in zip(classes, probs)  # noqa: B905
    ]
