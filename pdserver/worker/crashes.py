"""A worker that crashes ends at once, and reports where."""

from __future__ import annotations

import faulthandler
import signal
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_PADDLE = "paddle"
_STDERR = 2
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Those that tell a process to end."""


def report() -> None:
    """Write tracebacks of crashes to stderr, and of hangs when the server ends the worker with SIGABRT."""
    faulthandler.disable()  # otherwise it assumes that its handlers are still installed
    faulthandler.enable(_STDERR)


def keep_signals_from_paddle() -> None:
    """Whenever this process imports Paddle, have it leave crashes alone.

    Paddle's own signal handler writes a stack, too. For that it takes memory; where the heap is broken, it waits for
    the lock that the crash has left locked, and the process hangs until the server finds that it takes too long.
    """
    sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds Paddle as usual, and puts the process's own signal handlers back after the import."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == _PADDLE else None
        if spec is None or spec.loader is None:
            return None
        import_it = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            import_it(module)
            module.disable_signal_handler()
            for number in _SIGNALS:  # Paddle has taken them, too, and does not give them back
                if (handler := signal.getsignal(number)) is not None:
                    signal.signal(number, handler)
            if faulthandler.is_enabled():
                report()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
