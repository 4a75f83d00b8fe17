"""From a handler's name to the two functions that the worker calls."""

from __future__ import annotations

import asyncio
import atexit
import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pdserver.errors import ArchiveUnusable
from pdserver.formats.values import nearest, shown
from pdserver.handlers.context import Context

BUILT_IN = {
    "base_handler": "pdserver.handlers.base",
    "image_classifier": "pdserver.handlers.image_classifier",
    "image_segmenter": "pdserver.handlers.image_segmenter",
    "object_detector": "pdserver.handlers.object_detector",
    "sequence": "pdserver.handlers.sequence",
    "text_classifier": "pdserver.handlers.text_classifier",
}
"""Handlers that come with the server, by the name that a manifest gives."""


@dataclass(frozen=True)
class EntryPoint:
    """`initialize` is called once; `handle` takes a list of rows and returns a list of as many answers."""

    initialize: Callable[[Context], object]
    handle: Callable[[list[dict[str, Any]], Context], object]
    instance: Any = None
    """The handler, if it is an object."""


def load(handler: str, directory: Path) -> EntryPoint:
    """The entry point of `handler`: a built-in's name, or `file.py`, `file`, either with `:name`.

    A file is looked for in `directory`, and served by the function or class named, else by its function `handle`, else
    by the one class it defines that has a method `handle` (its own or inherited) and that no other one there derives
    from.

    Raises ArchiveUnusable when there is no such file, or no or more than one entry point in it. What the file itself
    raises passes through.
    """
    name, _, member = handler.partition(":")
    if name in BUILT_IN and not member:
        module = importlib.import_module(BUILT_IN[name])
    else:
        module = import_file(_find(name, directory))
    if inspect.isclass(named := getattr(module, member, None) if member else None):
        return _from_class(named, handler)
    if member or callable(getattr(module, "handle", None)):
        return _from_function(module, member or "handle", handler)
    return _from_class(_only_class(module, handler), handler)


def _find(name: str, directory: Path) -> Path:
    path = directory / (name if name.endswith(".py") else f"{name}.py")
    try:
        is_inside, is_there = path.resolve().is_relative_to(directory.resolve()), path.is_file()
    except (OSError, ValueError):
        raise ArchiveUnusable(f'handler "{shown(name)}": no file can have this name') from None
    if not is_inside:
        raise ArchiveUnusable(f'handler "{name}" is outside the archive')
    if not is_there:
        hint = nearest(name, [*BUILT_IN, *(file.name for file in directory.glob("*.py"))])
        built_in = ", ".join(BUILT_IN)
        raise ArchiveUnusable(f'handler "{name}": no {path.name} in the archive{hint} (built in are {built_in})')
    return path


def import_file(path: Path) -> ModuleType:
    """The module in an archive's file. What the file itself raises passes through."""
    # Imported by path, not by name, so that `json.py` in an archive does not hide the standard library's module. It
    # keeps its plain name if that is free, so that the archive's other files can import it.
    name = path.stem if _is_free(path) else f"pdserver_handler_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # noqa: S101 - only a path that does not end in .py has none
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)  # type: ignore[union-attr]  # a file's spec has one
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _is_free(path: Path) -> bool:
    """Whether importing the name of this file would find this file, or nothing."""
    if not path.stem.isidentifier() or path.stem in sys.modules:
        return False
    found = importlib.util.find_spec(path.stem)
    return found is None or found.origin == str(path)


def _from_function(module: ModuleType, name: str, handler: str) -> EntryPoint:
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value) or inspect.isclass(value)]
        raise ArchiveUnusable(
            f'handler "{handler}": {module.__name__}.py has no function or class {name}{nearest(name, known)}'
        )
    return EntryPoint(
        lambda context: _settled(function(None, context)), lambda data, context: _settled(function(data, context))
    )


def _only_class(module: ModuleType, handler: str) -> type:
    own = [value for value in vars(module).values() if inspect.isclass(value) and value.__module__ == module.__name__]
    able = [value for value in own if callable(getattr(value, "handle", None))]
    classes = [value for value in able if not any(value in other.__bases__ for other in able)]
    if len(classes) != 1:
        found = ", ".join(c.__name__ for c in classes) or "neither"
        raise ArchiveUnusable(
            f'handler "{handler}": expected a function handle(data, context), or one class with a method handle; '
            f"found {found}"
        )
    return classes[0]


def _from_class(kind: type, handler: str) -> EntryPoint:
    if not callable(getattr(kind, "handle", None)):
        raise ArchiveUnusable(f'handler "{handler}": class {kind.__name__} has no method handle(data, context)')
    instance: Any = kind()
    initialize = getattr(instance, "initialize", lambda context: None)
    # Looked up for every batch, since `initialize` may replace it, as TorchServe's handlers do for micro-batching.
    return EntryPoint(
        lambda context: _settled(initialize(context)),
        lambda data, context: _settled(instance.handle(data, context)),
        instance,
    )


def _settled(answer: object) -> object:
    """`answer`, or the result of an async function's coroutine."""
    return _event_loop().run_until_complete(answer) if inspect.iscoroutine(answer) else answer


@functools.cache
def _event_loop() -> asyncio.AbstractEventLoop:
    """The process's only event loop, so that what a handler opens in one batch stays usable in the next."""
    loop = asyncio.new_event_loop()
    atexit.register(loop.close)
    return loop
