"""Labels: names of versions, such as `stable`, that clients may ask for in place of a number.

Source: `Assigning string labels to model versions` in TensorFlow Serving's guide to its configuration, and
ServerCore::UpdateModelVersionLabelMap.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pdserver.errors import Conflict
from pdserver.formats.values import listed, shown

_FLAG = "allow_version_labels_for_unavailable_models"
_ALLOW = f"--{_FLAG} (the key tensorflow_{_FLAG})"


def check(
    model: str,
    labels: Mapping[str, int],
    before: Mapping[str, int],
    available: Collection[int],
    coming: Collection[int],
    *,
    allow_new: bool,
) -> None:
    """Check the labels that a model is to have; `before` are those that it has. Raises Conflict.

    A label goes to a version that is `available`. One that nobody asks by yet may also go to one that is `coming`,
    which is loaded with it, or, with `allow_new`, to any.
    """
    for label, version in labels.items():
        if version in available or before.get(label) == version:
            continue
        if label not in before and (allow_new or version in coming):
            continue
        known = f"model {model}: version_labels: {shown(label)}: version {version} is not available"
        if allow_new:
            raise Conflict(f"{known}, and it is {before[label]} now: only a new label can go to such a version")
        raise Conflict(
            f"{known} (available: {listed(sorted(available))}): give the label once it is, or allow it by {_ALLOW}"
        )
