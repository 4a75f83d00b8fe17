"""Checks by its headers that a weights file (`.pdiparams`) belongs to its model, and combines many files to one.

The file is one record for each parameter, without names: uint32 version, uint64 count of LoD levels (each with its
own length), uint32 version, int32 length of a TensorDesc message, the message, the values. Source: paddle's
DenseTensor SerializeToStream / TensorToStream.
"""

from __future__ import annotations

import math
import os
import shutil
import struct
from collections import Counter
from pathlib import Path
from typing import BinaryIO

from pdarchiver import messages
from pdarchiver.dtypes import BY_NUMBER
from pdarchiver.errors import InvalidModel, PackingError
from pdarchiver.names import path_problem
from pdarchiver.signature import Program

_MAX_DESC_BYTES = 4096


def check(path: Path, program: Program) -> None:
    """Compare the shapes in the weights file with those of the model. Reads only the headers.

    Raises InvalidModel if the file is cut short, is something else, or belongs to another model.
    """
    _check(path, program.parameters)


def combine(folder: Path, program: Program, target: Path) -> bool:
    """Write the weights file of a model whose parameters are each in a file of their name, as Paddle 1.x saves them.

    False when there are no such files. Raises PackingError when some are missing, InvalidModel for files that are not
    those parameters.
    """
    wanted = _files(folder, program)
    missing = [path.name for path in wanted if not path.is_file()]
    if len(missing) == len(wanted):
        return False
    if missing:
        raise PackingError(
            f"{folder}: the model has {len(wanted)} parameters, each in a file of its name, and {len(missing)} of "
            f"those files are not there: {', '.join(missing[:3])}{', …' * (len(missing) > 3)}; copy the whole folder"
        )
    with target.open("wb") as combined:
        for path, shape in wanted.items():
            _check(path, Counter([shape]))
            with path.open("rb") as file:
                shutil.copyfileobj(file, combined, 1 << 20)
    return True


def are_separate(folder: Path, program: Program) -> bool:
    """Whether the folder has files of single parameters, all or some."""
    return any(path.is_file() for path in _files(folder, program))


def _files(folder: Path, program: Program) -> dict[Path, tuple[int, ...]]:
    """Where each parameter is if it has its own file, and its shape."""
    return {folder / name: shape for name, shape in program.parameter_names.items() if path_problem(name) is None}


def _check(path: Path, wanted: Counter[tuple[int, ...]]) -> None:
    try:
        with path.open("rb") as file:
            found = _shapes(file, os.fstat(file.fileno()).st_size)
    except (struct.error, ValueError, KeyError) as error:
        raise InvalidModel(
            f"{path}: not a whole file of Paddle parameters ({error}); save or copy the model again"
        ) from None
    if found == wanted:
        return
    missing, extra = wanted - found, found - wanted
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
        desc = messages.decode("TensorDesc", file.read(desc_bytes))
        shape = tuple(desc.dims)
        if any(length < 0 for length in shape):
            raise ValueError(f"a parameter of shape {list(shape)}")
        _skip(file, math.prod(shape) * BY_NUMBER[desc.data_type].item_bytes, size)
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
