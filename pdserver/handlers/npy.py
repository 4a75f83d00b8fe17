"""numpy's file format, from strangers."""

from __future__ import annotations

import math
from io import BytesIO

import numpy as np

from pdserver.errors import InvalidRequest
from pdserver.handlers.rows import Array
from pdserver.values import shown

NPY_MAGIC = b"\x93NUMPY"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def load_npy(data: bytes) -> Array:
    """The array in an `.npy` file. No copy: it is read-only. Raises InvalidRequest for a damaged file, or objects.

    The header is not trusted, where numpy.load would allocate what it says before it reads.
    """
    stream = BytesIO(data)
    try:
        shape, fortran, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
        flat = np.frombuffer(data, dtype, math.prod(shape), stream.tell())
        return flat.reshape(shape, order="F" if fortran else "C")
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise InvalidRequest(f"the .npy file cannot be read: {shown(str(error))}") from None
