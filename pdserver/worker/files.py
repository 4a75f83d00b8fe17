"""Large inputs and answers travel beside the frame, as memory files.

The kernel passes at most 253 descriptors at once (SCM_RIGHTS, unix(7)), so they travel in groups. Each of the frame's
first bytes brings one group, and the rest of the frame brings the last. The receiver maps each group as it comes, so
that few descriptors are open at a time.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, cast

import msgspec

from pdserver.errors import Kind, Unavailable
from pdserver.memory_file import THRESHOLD_BYTES, MemoryFile, copy, kept_view, view
from pdserver.system import descriptors
from pdserver.types import Failure, Outcome, Part, Reply, Request, Tensor, Values

GROUP = 32
"""Descriptors that are passed at once."""
ANCILLARY_BYTES = socket.CMSG_SPACE(GROUP * array.array("i").itemsize)
Ancillary = list[tuple[int, int, bytes]]
Taken = TypeVar("Taken")
Place = tuple[int, list[Any] | None, int]
"""Where an answer's data belong: the outcome's position; the list of its tensors or parts, None for the body; and
the position in that."""
# As plain numbers: the socket module's own are enumerations, whose operators are Python code.
CLOSED_ON_EXEC = int(socket.MSG_CMSG_CLOEXEC)
_TRUNCATED = int(socket.MSG_CTRUNC)


def pieces(frame: bytearray, fds: Sequence[int]) -> list[tuple[memoryview, Sequence[int]]]:
    """The pieces to write, each with its descriptors."""
    whole = memoryview(frame)
    last = max(0, len(fds) - 1) // GROUP
    return [
        *((whole[group : group + 1], fds[group * GROUP : (group + 1) * GROUP]) for group in range(last)),
        (whole[last:], fds[last * GROUP :]),
    ]


def rights(fds: Sequence[int]) -> list[tuple[int, int, array.array[int]]]:
    """The ancillary data that passes these descriptors."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []


class Received(Generic[Taken]):
    """The descriptors that come with one channel's frames. `take_over` converts them."""

    def __init__(self, take_over: Callable[[list[int]], list[Taken]]) -> None:
        self._take_over = take_over
        self._groups: deque[list[Taken] | None] = deque()
        """None stands for an incomplete group."""

    def add(self, ancillary: Ancillary, flags: int) -> None:
        """Keep what recvmsg(2) gave beside the data, which is one group at most.

        Raises ValueError for a memory file that is not sealed.
        """
        truncated = flags & _TRUNCATED  # there were no descriptors left for all of them
        if not (ancillary or truncated):
            return
        fds = array.array("i")
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        group: list[Taken] | None = None
        if truncated:
            close_all(fds)
        else:
            with contextlib.suppress(OSError):  # there is no memory to map them
                group = self._take_over(fds.tolist())
        self._groups.append(group)

    def take(self, count: int) -> list[Taken] | None:
        """What came with a frame that brings `count` descriptors, or None if some are missing.

        Raises ValueError when that is not what was sent.
        """
        if not count:
            return []
        groups = [self._groups.popleft() if self._groups else None for _ in range(-(-count // GROUP))]
        if None in groups:
            return None
        taken = [each for group in groups if group is not None for each in group]
        if len(taken) != count:
            raise ValueError(f"{len(taken)} descriptors came with a message that announced {count}")
        return taken


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def take_views(fds: list[int], *, keep: bool = False) -> list[bytes]:
    """The contents of these memory files, which are closed. Raises ValueError for one that is not sealed, OSError.

    `keep`: they may be passed on, so each stays open as long as its contents are here (`memory_file.file_of`). Where
    descriptors are short, they are closed all the same, and their contents copied.
    """
    plenty = descriptors.are_plenty(max(fds))
    left = list(map(MemoryFile.of, reversed(fds)))
    taken: list[bytes] = []
    while left:
        file = left.pop()
        contents = copy(file.fd) if not plenty else kept_view(file) if keep else view(file.fd)
        taken.append(cast(bytes, contents))
        del file  # closed before the next one is mapped: a mapping keeps a descriptor of its own
    return taken


def all_files(requests: Sequence[Request]) -> dict[int, int]:
    """The descriptors of all requests' files, as the sender has them, each once → its place among them."""
    return {fd: place for place, fd in enumerate(dict.fromkeys(fd for request in requests for fd in request.files))}


def put_inputs_in_place(requests: list[Request], contents: list[bytes]) -> None:
    """Fill in the inputs' data. `contents` are those of `all_files`."""
    places = all_files(requests)
    for request in requests:
        for index, given in enumerate(request.inputs):
            if given.file >= 0:
                whole = contents[places[request.files[given.file]]]
                data = whole[given.start : given.start + given.size]
                request.inputs[index] = msgspec.structs.replace(given, data=data, file=-1)


def let_inputs_go(requests: list[Request]) -> None:
    """Unmap the files now, between batches, rather than when the next batch is here."""
    for request in requests:
        if request.files:
            request.inputs.clear()


def put_answers_beside(outcomes: list[Outcome]) -> list[MemoryFile]:
    """Move large answers to files: each to its own, unless there are more than fit in one group.

    An answer for which there is no file becomes a Failure.
    """
    large: list[Place] = []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, Reply):
            if len(outcome.body) >= THRESHOLD_BYTES:
                large.append((index, None, 0))
            if outcome.tensors:
                large += _large(index, outcome.tensors)
            if type(outcome) is Values:
                large += _large(index, outcome.parts)
    if not large:
        return []
    files: list[MemoryFile] = []
    share = -(-len(large) // GROUP)
    for first in range(0, len(large), share):
        places = large[first : first + share]
        try:
            file = MemoryFile([_data(outcomes, place) for place in places])
        except Unavailable as error:
            for index, _, _ in places:
                outcomes[index] = Failure.of(error)
            continue
        file.seal()
        _refer(outcomes, places, len(files))
        files.append(file)
    return files


def _large(index: int, items: list[Any]) -> list[Place]:
    return [(index, items, at) for at, item in enumerate(items) if len(item.data) >= THRESHOLD_BYTES]


def _data(outcomes: list[Outcome], place: Place) -> bytes:
    index, items, at = place
    outcome = outcomes[index]
    if isinstance(outcome, Failure):  # there was no file for some of its other data
        return b""
    return outcome.body if items is None else cast(bytes, items[at].data)


def _refer(outcomes: list[Outcome], places: Sequence[Place], file: int) -> None:
    """Replace the data by their places in the file."""
    start = 0
    for place in places:
        index, items, at = place
        size = len(_data(outcomes, place))
        where: dict[str, Any] = {"file": file, "start": start, "size": size}
        outcome = outcomes[index]
        if items is not None:
            items[at] = msgspec.structs.replace(items[at], data=b"", **where)
        elif isinstance(outcome, Reply):
            outcomes[index] = msgspec.structs.replace(outcome, body=b"", **where)
        start += size


def put_answers_in_place(outcomes: list[Outcome], contents: list[bytes] | None) -> None:
    """Fill in the answers' data. None: the files were lost on the way, so these answers become Failures."""
    for index, outcome in enumerate(outcomes):
        if not isinstance(outcome, Reply):
            continue
        beside: list[list[Any]] = [outcome.tensors, outcome.parts] if type(outcome) is Values else [outcome.tensors]
        if contents is None:
            if outcome.file >= 0 or any(item.file >= 0 for items in beside for item in items):
                outcomes[index] = LOST_ANSWER
            continue
        if outcome.file >= 0:
            outcomes[index] = msgspec.structs.replace(outcome, body=_part(outcome, contents), file=-1)
        for items in beside:
            for at, item in enumerate(items):
                if item.file >= 0:
                    items[at] = msgspec.structs.replace(item, data=_part(item, contents), file=-1)


def _part(given: Reply | Part | Tensor, contents: list[bytes]) -> bytes:
    return contents[given.file][given.start : given.start + given.size]


LOST_INPUT = Failure(
    Kind.UNAVAILABLE,
    "a large input did not reach the worker, which has no file descriptors or no memory left; try again in a moment",
)
LOST_ANSWER = Failure(
    Kind.UNAVAILABLE,
    "a large answer did not reach the server, which has no file descriptors or no memory left; try again in a moment",
)
