"""Regions of system shared memory (/dev/shm) that clients of this machine have registered.

Off unless the operator allows it, for a client that registers a region makes the server read and write memory by name.
So a name must be that of a plain file in /dev/shm that belongs to the server's own user, and no access leaves the
region. Nothing is mapped, so a file that shrinks is an error, never a fault.

A request's inputs are read when it arrives. A region for its outputs stays registered until the request is answered or
given up; if a client unregisters the region earlier, it goes then, as with Triton.
"""

from __future__ import annotations

import os
import re
import stat
import weakref
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from pdserver.dialects.oip.request import Form, InferRequest
from pdserver.errors import Conflict, Forbidden, InvalidRequest, Unsupported, VersionNotFound
from pdserver.formats.values import shown
from pdserver.memory_file import THRESHOLD_BYTES, Buffer, MemoryFile
from pdserver.types import Parameter, Tensor

_FOLDER = "/dev/shm"  # noqa: S108
_KEY = re.compile(r"/?(?!\.\.?$)[A-Za-z0-9_.-]{1,250}")
_RESERVED = ("sem.", "triton_python_backend_shm_region_")
"""Beginnings of names that are not clients' data: semaphores, and Triton's own memory."""
_MAX_REGIONS = 1024
_LONGEST_NAME = 250
_OFF = (
    "client shared memory is not allowed: requests carry their tensors; "
    "set allow_client_shm=true for clients of this machine to share memory with the server"
)


class Region(msgspec.Struct, frozen=True):
    """A window of a shared memory file: `byte_size` bytes from `offset` on."""

    name: str
    key: str
    offset: int
    byte_size: int
    fd: int

    def described(self) -> dict[str, str | int]:
        return {"name": self.name, "key": self.key, "offset": self.offset, "byte_size": self.byte_size}


class _Awaited(Form, frozen=True, array_like=True, gc=True, weakref=True):
    """Of an output that is still to be written to a region. Once the form is garbage, nobody will write the output."""


class Regions:
    """All registered regions. `enabled` False: there are none, and none can be registered."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self._regions: dict[str, Region] = {}
        self._awaited: Counter[str] = Counter()
        """How many outputs are still to be written to a region, or who else holds it (`hold`)."""
        self._holds: dict[int, weakref.finalize[[int, str], _Awaited]] = {}
        """By the form's id, what subtracts it from `_awaited`, once the output is written or the form is garbage."""
        self._leaving: set[str] = set()
        """Regions that were unregistered while outputs were still to be written."""
        self.on_change: Callable[[str, Region | None], None] = lambda name, region: None
        """Called with each region that is registered, and with None for one that is not any more."""
        self.on_leaving: Callable[[str], None] = lambda name: None
        """Called when a region was unregistered that stays as long as somebody holds it."""

    def check_enabled(self) -> None:
        """Raises Unsupported."""
        if not self.enabled:
            raise Unsupported(_OFF)

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Raises Unsupported when it is switched off, Conflict for a name that is taken, InvalidRequest."""
        self.check_enabled()
        if not name or len(name) > _LONGEST_NAME:
            raise InvalidRequest(f"the shared memory region needs a name, of at most {_LONGEST_NAME} characters")
        if name in self._regions:
            raise Conflict(f"shared memory region '{name}' already in manager")
        if len(self._regions) >= _MAX_REGIONS:
            raise Conflict(f"{_MAX_REGIONS} shared memory regions are registered already; unregister one")
        if offset < 0 or byte_size <= 0:
            raise InvalidRequest(
                f"failed to register shared memory region '{name}': offset {offset}, byte_size {byte_size}: "
                "expected an offset of 0 or more, and at least one byte"
            )
        fd = _open(name, key)
        size = os.fstat(fd).st_size
        if offset + byte_size > size:
            os.close(fd)
            raise InvalidRequest(
                f"failed to register shared memory region '{name}': invalid args: offset {offset} + byte_size "
                f"{byte_size} is beyond the {size} bytes of '{key}'"
            )
        self.put(Region(name, key, offset, byte_size, fd))

    def put(self, region: Region) -> None:
        """Add a region, or replace the one of the same name. Its descriptor is closed here."""
        self._remove(region.name)
        self._regions[region.name] = region
        self.on_change(region.name, region)

    def unregister(self, name: str | None = None) -> None:
        """One region, or all; no error for one that is not registered. Raises Unsupported."""
        self.check_enabled()
        for known in [name] if name is not None else list(self._regions):
            self.forget(known)

    def forget(self, name: str) -> None:
        """Remove a region, once nothing more is to be written to it."""
        if not self._awaited[name]:
            self._remove(name)
        elif name not in self._leaving:
            self._leaving.add(name)
            self.on_leaving(name)

    def status(self, name: str | None = None) -> list[Region]:
        """One region, or all. Raises VersionNotFound, the protocol's "not found", for one that is not registered."""
        if name is None:
            return self.all()
        if name not in self._regions:
            raise VersionNotFound(f"Unable to find system shared memory region: '{shown(name)}'")
        return [self._regions[name]]

    def all(self) -> list[Region]:
        return list(self._regions.values())

    def read(self, name: str, offset: int, size: int) -> bytes | MemoryFile:
        """`size` bytes from `offset` in the region: a memory file, not sealed yet, when they are many.

        Raises InvalidRequest.
        """
        region = self._window(name, offset, size)
        position = region.offset + offset
        try:
            if size >= THRESHOLD_BYTES:
                return _copied(region, position, size)
            data = os.pread(region.fd, size, position)
        except OSError as error:
            raise InvalidRequest(f"shared memory region '{name}' can't be read: {error.strerror}") from None
        if len(data) < size:
            raise _shrunk(region)
        return data

    def settle(self, request: InferRequest, kept: list[MemoryFile]) -> None:
        """Give the inputs that are in shared memory what their windows have; check the outputs' windows.

        Memory files that this makes are added to `kept`. Raises InvalidRequest; Forbidden for a web page's request that
        would write to memory.
        """
        inputs = request.inputs
        for place, region in request.shared:
            if place < 0:
                continue
            given = inputs[place]
            data = self.read(region, given.start, given.size)
            if isinstance(data, bytes):
                inputs[place] = msgspec.structs.replace(given, data=data, start=0, size=0)
            else:
                inputs[place] = msgspec.structs.replace(given, file=len(request.files), start=0)
                request.files.append(data.seal())
                kept.append(data)
        for name, form in request.forms.items():
            if form.region:
                if any(header == b"origin" for header, _ in request.headers):
                    raise Forbidden(
                        f"output '{shown(name)}': a web page shares no memory with the server: leave"
                        " 'shared_memory_region' out"
                    )
                self._window(form.region, form.offset, form.size)
                request.forms[name] = self._awaiting(form)

    def place_all(self, request: InferRequest, tensors: Sequence[Tensor]) -> dict[str, dict[str, Parameter]]:
        """Write the outputs that the request wants in regions. Gives, by the output's name, the parameters that tell
        the client where it is. Raises InvalidRequest."""
        wanted = {name: form for name, form in request.forms.items() if form.region}
        return {tensor.name: self._place(wanted[tensor.name], tensor) for tensor in tensors if tensor.name in wanted}

    def _place(self, form: Form, tensor: Tensor) -> dict[str, Parameter]:
        self.write(form.region, form.offset, form.size, tensor.name, tensor.data)
        said: dict[str, Parameter] = {
            "shared_memory_region": form.region,
            "shared_memory_byte_size": len(tensor.data),
        }
        if form.offset:
            said["shared_memory_offset"] = form.offset
        return said

    def write(self, name: str, offset: int, size: int, output: str, data: Buffer) -> None:
        """Write an output's bytes to the `size` bytes from `offset` that its request kept for it.

        Raises InvalidRequest.
        """
        region = self._window(name, offset, size)
        rest = memoryview(data).cast("B")
        if len(rest) > size:
            raise InvalidRequest(
                f"shared memory size specified with the request for output '{output}' ({size} bytes) should be at "
                f"least {len(rest)} bytes to hold the results"
            )
        position = region.offset + offset
        if os.fstat(region.fd).st_size < position + len(rest):
            raise _shrunk(region)
        try:
            while len(rest):
                count = os.pwrite(region.fd, rest, position)
                rest = rest[count:]
                position += count
        except OSError as error:
            raise InvalidRequest(f"shared memory region '{name}' can't be written: {error.strerror}") from None

    def done(self, request: InferRequest) -> None:
        """Nothing more will be written for this request. Idempotent."""
        for form in request.forms.values():
            if form.region and (hold := self._holds.get(id(form))):
                hold()

    def close(self) -> None:
        """Idempotent."""
        for name in list(self._regions):
            self._remove(name)

    def _awaiting(self, form: Form) -> _Awaited:
        awaited = _Awaited(*msgspec.structs.astuple(form))
        self._holds[id(awaited)] = hold = weakref.finalize(awaited, self._let_go, id(awaited), form.region)
        hold.atexit = False
        self.hold(form.region)
        return awaited

    def _let_go(self, form: int, region: str) -> None:
        del self._holds[form]
        self.release(region)

    def hold(self, name: str) -> None:
        """Keep a region until `release`, even if it is unregistered meanwhile."""
        self._awaited[name] += 1

    def release(self, name: str) -> None:
        self._awaited[name] -= 1
        if not self._awaited[name]:
            del self._awaited[name]
            if name in self._leaving:
                self._remove(name)

    def _remove(self, name: str) -> None:
        self._leaving.discard(name)
        region = self._regions.pop(name, None)
        if region is not None:
            os.close(region.fd)
            self.on_change(name, None)

    def _window(self, name: str, offset: int, size: int) -> Region:
        region = self._regions.get(name)
        if region is None:
            hint = "" if self.enabled else f": {_OFF}"
            raise InvalidRequest(f"Unable to find shared memory region: '{shown(name)}'{hint}")
        if offset < 0 or size < 0 or offset + size > region.byte_size:
            raise InvalidRequest(
                f"Invalid offset + byte size for shared memory region: '{name}': offset {offset} + {size} bytes is "
                f"beyond its {region.byte_size} bytes"
            )
        return region


class CudaRegions:
    """Answers what clients ask about CUDA shared memory: there is none, and none can be registered."""

    def __init__(self, system: Regions) -> None:
        self._system = system

    def register(self, name: str) -> None:
        """Raises Unsupported when shared memory is switched off, else InvalidRequest."""
        self._system.check_enabled()
        raise InvalidRequest(
            f"failed to register CUDA shared memory region '{shown(name)}': the server has no CUDA shared memory; use "
            "system shared memory"
        )

    def unregister(self) -> None:
        """Does nothing: before they begin, clients unregister what may be left over. Raises Unsupported."""
        self._system.check_enabled()

    def check(self, name: str | None) -> None:
        """Raises VersionNotFound, the protocol's "not found", for a region that is named."""
        if name is not None:
            raise VersionNotFound(f"Unable to find CUDA shared memory region: '{shown(name)}'")


def _open(name: str, key: str) -> int:
    """Open the shared memory file by its POSIX name. Raises InvalidRequest unless the server's user owns it."""
    plain = key.removeprefix("/")
    if not _KEY.fullmatch(key) or plain.startswith(_RESERVED):
        raise InvalidRequest(
            f"failed to register shared memory region '{name}': key '{shown(key)}' is not allowed: expected a name "
            "such as /my_region, of letters, digits, _, . and -"
        )
    try:
        fd = os.open(f"{_FOLDER}/{plain}", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InvalidRequest(f"Unable to open shared memory region: '{key}': {error.strerror}") from None
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        os.close(fd)
        raise InvalidRequest(
            f"Unable to open shared memory region: '{key}': it is not a file of the user that the server runs as"
        )
    return fd


def _copied(region: Region, position: int, size: int) -> MemoryFile:
    """A copy that the kernel makes. Raises InvalidRequest, OSError, Unavailable."""
    file = MemoryFile()
    end = position + size
    while position < end:
        count = os.sendfile(file.fd, region.fd, position, end - position)
        if not count:
            raise _shrunk(region)
        position += count
    return file


def _shrunk(region: Region) -> InvalidRequest:
    return InvalidRequest(
        f"shared memory region '{region.name}': '{region.key}' is smaller than when it was registered"
    )
