"""numpy's file format, from strangers.

Source: numpy.lib.format. numpy's own reader evaluates the header as a Python literal, which can exhaust the stack, and
numpy.load allocates what the header says before it reads.
"""

from __future__ import annotations

import math
import re
import struct

import numpy as np

from pdserver.errors import InvalidRequest
from pdserver.formats.values import shown
from pdserver.handlers.runtime.rows import Array
from pdserver.memory_file import Buffer

NPY_MAGIC = b"\x93NUMPY"
_LENGTHS = {(1, 0): struct.Struct("<H"), (2, 0): struct.Struct("<I"), (3, 0): struct.Struct("<I")}
_MAX_HEADER_BYTES = 10_000
_MAX_RANK = 32
_ENTRY = re.compile(r"""\s*['"](\w{1,20})['"]\s*:\s*(['"][^'"]*['"]|True|False|\([^()]*\))\s*(?:,|(?=\}))""")
_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|c8|c16)")
_SHAPE = re.compile(r"\(\s*(?:\d+L?\s*,\s*(?:\d+L?\s*,\s*)*(?:\d+L?\s*)?)?\)")


def load_npy(data: Buffer) -> Array:
    """The array in an `.npy` file. No copy: it is read-only, if `data` is.

    Raises InvalidRequest for a damaged file, for one that holds anything but numbers, and for one whose data are more
    or less than its header says.
    """
    try:
        dtype, fortran, shape, start = _header(data)
        expected = math.prod(shape) * dtype.itemsize
        if len(data) - start != expected:
            raise ValueError(f"{dtype} of shape {list(shape)} is {expected} bytes, found {len(data) - start}")
        flat = np.frombuffer(data, dtype, offset=start) if expected else np.empty(0, dtype)
        return flat.reshape(shape, order="F" if fortran else "C")
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(f"the .npy file cannot be read: {shown(str(error))}") from None


def _header(data: Buffer) -> tuple[np.dtype[np.generic], bool, tuple[int, ...], int]:
    """dtype, whether it is in Fortran order, shape, and where the data begin. Raises ValueError."""
    version = (data[6], data[7]) if len(data) > 7 else (0, 0)
    length = _LENGTHS.get(version)
    if length is None:
        raise ValueError(f"version {version[0]}.{version[1]} of the format is not known")
    start = 8 + length.size
    end = start + (length.unpack_from(data, 8)[0] if len(data) >= start else 0)
    if end > len(data) or end - start > _MAX_HEADER_BYTES or end == start:
        raise ValueError("it ends within its header" if end > len(data) else "its header is empty, or far too long")
    entries = _entries(str(data[start:end], "latin-1"))
    descr, order, shape = entries["descr"][1:-1], entries["fortran_order"], entries["shape"]
    if not _DTYPE.fullmatch(descr):
        raise ValueError(f"its dtype is {descr}, which is no number")
    lengths = re.findall(r"\d+", shape)
    if order not in ("True", "False") or not _SHAPE.fullmatch(shape) or max(map(len, lengths), default=0) > 19:
        raise ValueError(f"its shape is {shape}, its order {order}")
    if len(lengths) > _MAX_RANK:
        raise ValueError(f"it has more than {_MAX_RANK} dimensions")
    return np.dtype(descr), order == "True", tuple(map(int, lengths)), end


def _entries(header: str) -> dict[str, str]:
    """The three entries of the header, which is a Python dict of a fixed form. Raises ValueError."""
    entries: dict[str, str] = {}
    at = header.find("{") + 1
    while at and (found := _ENTRY.match(header, at)):
        if found[1] in entries:
            raise ValueError(f"its header gives {found[1]} twice")
        entries[found[1]] = found[2]
        at = found.end()
    if not at or header[at:].strip() != "}" or entries.keys() != {"descr", "fortran_order", "shape"}:
        raise ValueError("its header does not say descr, fortran_order and shape, and nothing else")
    return entries
