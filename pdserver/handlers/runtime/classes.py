"""An output's likeliest classes, as clients of Triton's classification extension ask for them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pdserver.dtypes import BYTES
from pdserver.errors import InvalidRequest
from pdserver.formats.elements import packed
from pdserver.handlers.runtime.rows import Array
from pdserver.types import Output, Tensor


def classified(wanted: Output, values: Array, labels: Mapping[int, str], *, batched: bool) -> Tensor:
    """The likeliest classes of each row, or of all there is, as "value:index[:label]".

    Raises InvalidRequest for an output that has no numbers.
    """
    kind = values.dtype.kind
    if kind not in "iuf":
        said = "BOOL" if kind == "b" else "BYTES"
        raise InvalidRequest(
            f"class result not available for output '{wanted.name}' due to unsupported type '{said}': "
            "leave its parameter 'classification' out"
        )
    rows = values.reshape(len(values), -1) if batched else values.reshape(1, -1)
    best = np.argsort(-rows if kind == "f" else ~rows, axis=1, kind="stable")[:, : wanted.classes]
    texts = [
        (f"{row[index]:f}" if kind == "f" else str(row[index]))
        + f":{index}"
        + (f":{labels[index]}" if index in labels else "")
        for row, order in zip(rows, best.tolist(), strict=True)
        for index in order
    ]
    return Tensor(wanted.name, BYTES, best.shape if batched else best.shape[1:], packed(map(str.encode, texts)))
