"""The main function of a codec process. It does one job after the other until the server hangs up."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

import msgspec

from pdserver.codec import pipelines
from pdserver.codec.messages import LOST, Done, Failed, Job, received_files
from pdserver.dialects.codec import Work
from pdserver.dialects.oip import large as oip
from pdserver.dialects.paddle import large as paddle
from pdserver.dialects.paddle import web_large as paddle_web
from pdserver.dialects.paddlex import large as paddlex
from pdserver.dialects.tensorflow import large as tensorflow
from pdserver.dialects.tensorflow import message_large as tensorflow_messages
from pdserver.dialects.torchserve import large as torchserve
from pdserver.errors import Kind, PdError
from pdserver.memory_file import MemoryFile
from pdserver.system import signals
from pdserver.types import Failure
from pdserver.worker import files, wire

"""Ignored: they may be sent to all of a container's processes, but the server decides when this one ends."""
_NICE = 5
"""A low priority, so that the front end and the models come first."""
_OOM_SCORE = "800"
"""When memory runs out, the kernel ends the process with a client's large body before the server."""


def main(channel: socket.socket, works: dict[str, Work[Any, Any]]) -> None:
    """Do the jobs that come over `channel` until it is closed."""
    reader = wire.FrameReader()
    received = files.Received(received_files)
    decode = wire.decoder(Job).decode
    while True:
        count, ancillary, flags, _ = channel.recvmsg_into(
            [reader.buffer()], files.ANCILLARY_BYTES, files.CLOSED_ON_EXEC
        )
        if not count:
            return
        received.add(ancillary, flags)
        for frame, brought in reader.received(count):
            taken = received.take(brought)
            reply, given = _done(works, decode(frame), taken)
            data = wire.encode(reply, len(given))
            sent = channel.sendmsg([data], files.rights([file.fd for file in given]))
            channel.sendall(memoryview(data)[sent:])
            del reply, data, taken, given
            gc.collect()


def _done(
    works: dict[str, Work[Any, Any]], job: Job, taken: list[MemoryFile] | None
) -> tuple[Done | Failed, list[MemoryFile]]:
    if taken is None:
        return LOST, []
    work = works[job.work]
    try:
        result, given = work.function(msgspec.msgpack.decode(job.given, type=work.given), taken)
        return Done(msgspec.msgpack.encode(result)), given
    except PdError as error:
        return Failed(error.kind, str(error), error.status), []
    except (OSError, MemoryError):
        return Failed(Kind.UNAVAILABLE, "there is no room for large data now; try again in a moment"), []
    except Exception as error:  # noqa: BLE001 - our own error: the client needs an answer, the next job this process
        traceback.print_exc()
        return Failed(Kind.HANDLER, Failure.internal(error).message), []


def run(channel_fd: int) -> None:
    """Become a codec process."""
    signals.ignore()
    os.nice(_NICE)
    gc.freeze()
    gc.disable()  # it would scan millions of lists that are all in use; after a job they are gone anyway
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    with socket.socket(fileno=channel_fd) as channel:
        main(
            channel,
            {
                work.name: work
                for room in (
                    oip,
                    paddle,
                    paddle_web,
                    paddlex,
                    tensorflow,
                    tensorflow_messages,
                    torchserve,
                    pipelines,
                )
                for work in room.WORKS
            },
        )


if __name__ == "__main__":
    os.set_inheritable(int(sys.argv[1]), False)
    run(int(sys.argv[1]))
