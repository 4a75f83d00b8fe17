"""Large inputs and answers beside the frame: which go as memory files, and how they come back to their places.

The descriptors travel with the frame's first byte (SCM_RIGHTS, unix(7)), in the order of their mention in it.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence
from typing import cast

import msgspec

from pdserver.memory_file import THRESHOLD_BYTES, MemoryFile, view
from pdserver.types import Outcome, Reply, Request, Tensor

MAX_FILES = 250
"""That one frame can take along; the kernel allows 253."""
ANCILLARY_BYTES = socket.CMSG_SPACE(MAX_FILES * array.array("i").itemsize)
Ancillary = list[tuple[int, int, bytes]]


def rights(fds: Sequence[int]) -> list[tuple[int, int, array.array[int]]]:
    """The ancillary data that passes these descriptors."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []


def received_fds(ancillary: Ancillary) -> list[int]:
    """The descriptors in ancillary data. They are the caller's to close."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds.tolist()


def take_views(fds: list[int]) -> list[bytes]:
    """The contents of these memory files; closes them. Raises ValueError for one that is not sealed."""
    try:
        return [cast(bytes, view(fd)) for fd in fds]
    finally:
        for fd in fds:
            os.close(fd)


def put_inputs_in_place(requests: list[Request], contents: list[bytes]) -> None:
    """Give the inputs their data, from the files of all requests in their order."""
    first = 0
    for request in requests:
        for index, given in enumerate(request.inputs):
            if given.file >= 0:
                data = contents[first + given.file]
                if isinstance(given, Tensor):
                    data = data[given.start : given.start + given.size]
                request.inputs[index] = msgspec.structs.replace(given, data=data, file=-1)
        first += len(request.files)


def let_inputs_go(requests: list[Request]) -> None:
    """Unmap what came in files, now that there is time for it, and not when the next batch is here."""
    for request in requests:
        if request.files:
            request.inputs.clear()


def put_answers_beside(outcomes: list[Outcome]) -> list[MemoryFile]:
    """Move large answers out of the list, to files."""
    files: list[MemoryFile] = []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, Reply):
            if _goes_beside(outcome.body, files):
                outcomes[index] = msgspec.structs.replace(outcome, body=b"", file=_add(outcome.body, files))
            for place, tensor in enumerate(outcome.tensors):
                if _goes_beside(tensor.data, files):
                    size = len(tensor.data)
                    file = _add(tensor.data, files)
                    outcome.tensors[place] = msgspec.structs.replace(tensor, data=b"", file=file, size=size)
    return files


def _goes_beside(data: bytes, files: list[MemoryFile]) -> bool:
    return len(data) >= THRESHOLD_BYTES and len(files) < MAX_FILES


def _add(data: bytes, files: list[MemoryFile]) -> int:
    file = MemoryFile([data])
    file.seal()
    files.append(file)
    return len(files) - 1


def put_answers_in_place(outcomes: list[Outcome], contents: list[bytes]) -> None:
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, Reply):
            if outcome.file >= 0:
                outcomes[index] = msgspec.structs.replace(outcome, body=contents[outcome.file], file=-1)
            for place, tensor in enumerate(outcome.tensors):
                if tensor.file >= 0:
                    outcome.tensors[place] = msgspec.structs.replace(tensor, data=contents[tensor.file], file=-1)
