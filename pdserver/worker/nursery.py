"""The pre-loaded parent of the workers.

`import paddle` costs more than a second and 150 MB; a process forked from one that has it starts in some 20 ms and
owns what it changes. So this process imports everything once, Paddle when the server asks for it. It stays
single-threaded, never builds a predictor and never touches a device (a fork after that hangs the child), and forks a
worker whenever the server asks for one.

It owns the workers' process ids: it alone signals and reaps them. When a worker is gone, so is what its handler
started, in whatever session; when the server is gone, so are its workers.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NoReturn

from pdserver.system import signals
from pdserver.worker import child, crashes, environment, family, files, wire
from pdserver.worker.messages import Awake, Exited, FromNursery, ImportPaddle, Spawn, Spawned, ToNursery
from pdserver.worker.preloading import FOR_ALL, FOR_PADDLE, preload

_CLOSE_SECONDS = 1.0


class Nursery:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._reader = wire.FrameReader()
        self._files: files.Received[int] = files.Received(list)
        self._decode = wire.decoder(ToNursery).decode
        self._folder = Path(tempfile.gettempdir())  # it is found by writing to it, which may lack a descriptor later
        self._pids: dict[int, int] = {}
        """worker id → pid, for as long as the worker is not reaped"""

    def run(self) -> None:
        """Until the server hangs up."""
        family.adopt_orphans()
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signals.ignore()
        with selectors.EpollSelector() as selector:
            self._private_fds = (wake_read, wake_write, selector.fileno())
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(wake_read, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if wake_read in ready:
                    os.read(wake_read, 4096)
                    self._reap()
                if self._control in ready and not self._receive():
                    return

    def close(self) -> None:
        """Kill all workers and their processes at once, since nobody is left to take an answer."""
        deadline = time.monotonic() + _CLOSE_SECONDS
        for worker_id in list(self._pids):
            self._signal(worker_id, signal.SIGKILL)
        self._pids.clear()
        while (left := family.strays(())) and time.monotonic() < deadline:
            for pid in left:
                family.kill(pid)
            while _ended():
                os.waitpid(-1, os.WNOHANG)
            time.sleep(0.002)

    def _receive(self) -> bool:
        buffer = self._reader.buffer()
        count, ancillary, flags, _ = self._control.recvmsg_into([buffer], files.ANCILLARY_BYTES, files.CLOSED_ON_EXEC)
        if not count:
            return False
        self._files.add(ancillary, flags)
        for frame, brought in self._reader.received(count):
            message = self._decode(frame)
            fds = self._files.take(brought)
            if isinstance(message, Spawn):
                self._spawn(message, fds)
            elif isinstance(message, ImportPaddle):
                self._send(Awake(preload(FOR_PADDLE)))
            else:
                self._signal(message.worker_id, message.signal_number)
        return True

    def _spawn(self, spawn: Spawn, fds: list[int] | None) -> None:
        worker_id = spawn.worker_id
        if fds is None:
            self._send(Spawned(worker_id, 0, "the nursery has no file descriptors left"))
            return
        channel_fd, log_fd = fds
        try:
            pid = os.fork()
        except OSError as error:
            self._send(Spawned(worker_id, 0, f"fork failed: {error}"))
        else:
            if pid == 0:
                self._become_worker(spawn, channel_fd, log_fd)
            self._pids[worker_id] = pid
            self._send(Spawned(worker_id, pid))
        os.close(channel_fd)
        os.close(log_fd)

    def _become_worker(self, spawn: Spawn, channel_fd: int, log_fd: int) -> NoReturn:
        status = 1
        try:
            os.setsid()  # a group of its own, so that a kill takes the handler's children too
            family.mark_children()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            for fd in self._private_fds:
                os.close(fd)
            environment.enter(self._temporary(spawn.worker_id), spawn.limits)
            if spawn.python:
                child.execute(spawn.python, channel_fd, log_fd)
            child.run(channel_fd, log_fd)
            status = 0
        except BaseException:  # noqa: BLE001 - nothing of this process may go on as a second nursery
            traceback.print_exc()
        finally:
            os._exit(status)

    def _signal(self, worker_id: int, number: int) -> None:
        if pid := self._pids.get(worker_id):
            try:
                os.killpg(pid, number)
            except ProcessLookupError:  # forked, but its setsid has not happened yet
                os.kill(pid, number)

    def _reap(self) -> None:
        """Reap workers that have ended, and kill the processes that they left behind."""
        while pid := _ended():
            worker_id = next((number for number, worker in self._pids.items() if worker == pid), None)
            if worker_id is not None:
                # Before reaping it: as long as the zombie holds the pid, the group is surely the worker's.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            if worker_id is not None:
                del self._pids[worker_id]
                environment.leave(self._temporary(worker_id))
                self._send(Exited(worker_id, status))
            for stray in family.strays(self._pids.values()):
                family.kill(stray)

    def _send(self, message: FromNursery) -> None:
        self._control.sendall(wire.encode(message))

    def _temporary(self, worker_id: int) -> str:
        """The folder for a worker's temporary files."""
        return str(self._folder / f"worker-{worker_id}")


def _ended() -> int:
    """The pid of a child that has ended and is not reaped yet, or 0."""
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return ended.si_pid if ended else 0


def _close_inherited(kept: int) -> None:
    """Close the server's other descriptors: only the standard streams and the control channel are needed here."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - only the names matter
        if int(name) > 2 and int(name) != kept:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(int(name))


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    _close_inherited(control.fileno())
    environment.be_somewhere(tempfile.gettempdir())
    crashes.keep_signals_from_paddle()
    unavailable = preload(FOR_ALL)
    nursery = Nursery(control)
    try:
        nursery._send(Awake(unavailable))
        nursery.run()
    except (ConnectionError, ValueError):
        pass
    finally:
        nursery.close()


if __name__ == "__main__":
    main()
