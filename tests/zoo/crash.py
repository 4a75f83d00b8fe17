"""Breaks the heap while a request is answered, or while it is loaded where its settings say so."""

import ctypes
import threading
from typing import Any

import paddle


def handle(data: list[dict[str, Any]] | None, context: Any) -> Any:
    if data is not None or context.model_yaml_config.get("while") == "loading":
        assert paddle.__version__
        break_the_heap()
    return data


def break_the_heap() -> None:
    """The C library finds out while it holds its lock, and aborts; with one thread, it would not lock."""
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.malloc_usable_size.argtypes = libc.free.argtypes = [ctypes.c_void_p]
    block, _ = libc.malloc(2000), libc.malloc(2000)
    ctypes.memset(block + libc.malloc_usable_size(block), 0, 8)  # the size of what comes behind it
    libc.free(block)
