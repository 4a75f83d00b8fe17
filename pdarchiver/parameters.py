"""Whether a weights file (`.pdiparams`) belongs to its model, told from its headers alone.

The file is one record for each parameter, without names: uint32 version, uint64 count of LoD levels (each with its
own length), uint32 version, int32 length of a TensorDesc message, the message, the values. Source: paddle's
DenseTensor SerializeToStream / TensorToStream.
"""

from __future__ import annotations

import math
import os
import struct
from collections import Counter
from pathlib import Path
from typing import BinaryIO

from pdarchiver import protobuf
from pdarchiver.errors import InvalidModel
from pdarchiver.signature import Program

_ITEM_BYTES = {0: 1, 1: 2, 2: 4, 3: 8, 4: 2, 5: 4, 6: 8, 20: 1, 21: 1, 22: 2, 23: 8, 24: 16, 32: 1, 33: 1}
_MAX_DESC_BYTES = 4096


def check(path: Path, program: Program) -> None:
    """Compare the shapes in the weights file with those that the model asks for. Reads only the headers.

    Raises InvalidModel when the file is cut short, is something else, or is of another model.
    """
    try:
        with path.open("rb") as file:
            found = _shapes(file, os.fstat(file.fileno()).st_size)
    except (struct.error, ValueError, KeyError) as error:
        raise InvalidModel(
            f"{path}: not a whole file of Paddle parameters ({error}); save or copy the model again"
        ) from None
    if found == program.parameters:
        return
    missing, extra = program.parameters - found, found - program.parameters
    differences = [f"it lacks {_counted(missing)}"] if missing else []
    differences += [f"it has {_counted(extra)} that the model does not know"] if extra else []
    raise InvalidModel(f"{path}: not the parameters of this model: {', '.join(differences)}")


def _shapes(file: BinaryIO, size: int) -> Counter[tuple[int, ...]]:
    shapes: Counter[tuple[int, ...]] = Counter()
    while file.tell() < size:
        version, levels = _unpack(file, "<IQ")
        if version != 0 or levels > 16:
            raise ValueError(f"no record at byte {file.tell() - 12}")
        for _ in range(levels):
            _skip(file, _unpack(file, "<Q")[0], size)
        version, desc_bytes = _unpack(file, "<Ii")
        if version != 0 or not 0 <= desc_bytes <= _MAX_DESC_BYTES:
            raise ValueError(f"no record at byte {file.tell() - 8}")
        desc = protobuf.decode(file.read(desc_bytes))
        shape = tuple(protobuf.integers(desc, 2))
        if any(length < 0 for length in shape):
            raise ValueError(f"a parameter of shape {list(shape)}")
        _skip(file, math.prod(shape) * _ITEM_BYTES[protobuf.integer(desc, 1)], size)
        shapes[shape] += 1
    return shapes


def _skip(file: BinaryIO, count: int, size: int) -> None:
    if file.tell() + count > size:
        raise ValueError(f"it ends at byte {size}, in the middle of a parameter of {count} bytes")
    file.seek(count, os.SEEK_CUR)


def _unpack(file: BinaryIO, form: str) -> tuple[int, ...]:
    values: tuple[int, ...] = struct.unpack(form, file.read(struct.calcsize(form)))
    return values


def _counted(shapes: Counter[tuple[int, ...]]) -> str:
    listed = [f"{count} of shape {list(shape)}" for shape, count in sorted(shapes.items())[:3]]
    return f"{shapes.total()} parameter{'s' if shapes.total() > 1 else ''} ({', '.join(listed)})"
