"""Large data of answers go to a front end as memory files: as the files that they came in, where they came in some."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import numpy as np

from pdserver.errors import Unavailable
from pdserver.front_ends.messages import Answer
from pdserver.memory_file import THRESHOLD_BYTES, MemoryFile, file_of
from pdserver.types import Failure, Outcome, Reply, Tensor


class Beside:
    """The files of one frame."""

    def __init__(self) -> None:
        self._files: list[MemoryFile] = []

    @property
    def fds(self) -> list[int]:
        return [file.fd for file in self._files]

    def of(self, answers: list[Answer]) -> list[Answer]:
        """The same answers, with places in files for what is large."""
        for index, (number, outcome) in enumerate(answers):
            if isinstance(outcome, Reply) and _is_large(outcome):
                answers[index] = number, self._of(outcome)
        return answers

    def _of(self, reply: Reply) -> Outcome:
        """Others may have the reply, too, so that it stays as it is."""
        count = len(self._files)
        try:
            tensors = [self._placed(tensor) for tensor in reply.tensors]
            if len(reply.body) < THRESHOLD_BYTES:
                return msgspec.structs.replace(reply, tensors=tensors)
            return msgspec.structs.replace(reply, tensors=tensors, body=b"", **self._place(reply.body))
        except Unavailable as error:
            del self._files[count:]
            return Failure.of(error)

    def _placed(self, tensor: Tensor) -> Tensor:
        if len(tensor.data) < THRESHOLD_BYTES:
            return tensor
        return msgspec.structs.replace(tensor, data=b"", **self._place(tensor.data))

    def _place(self, data: bytes) -> dict[str, Any]:
        """The file's index, and where in it the data are. Raises Unavailable."""
        file = file_of(data)
        if file is None:
            file = MemoryFile([data])
            file.seal()
            start = 0
        else:
            start = _offset(cast(memoryview, data))
        if file not in self._files:
            self._files.append(file)
        return {"file": self._files.index(file), "start": start, "size": len(data)}


def _is_large(reply: Reply) -> bool:
    if len(reply.body) >= THRESHOLD_BYTES:
        return True
    return bool(reply.tensors) and any(len(tensor.data) >= THRESHOLD_BYTES for tensor in reply.tensors)


def _offset(data: memoryview) -> int:
    """Where a piece of a mapped file begins."""
    piece, whole = (np.frombuffer(each, np.uint8) for each in (data, memoryview(data.obj)))
    return int(piece.ctypes.data - whole.ctypes.data)
