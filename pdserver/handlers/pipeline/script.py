"""Runs the operator's own script, which says what the service is, in a worker as it ran when it was started."""

from __future__ import annotations

import importlib
import os
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import CodeType
from typing import ClassVar, Protocol

import msgspec

from pdserver.errors import ArchiveUnusable, ConfigError
from pdserver.handlers.pipeline.config import ServiceConfig
from pdserver.handlers.pipeline.op import Op, RequestOp, ResponseOp

_MAIN = "__main__"
SECTION = "webService"
"""Of the model's YAML that a service is described with: a `Script`."""


class Script(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was started, and how."""

    path: str
    """Of the file."""
    arguments: list[str] = []
    directory: str
    """The working directory."""
    imports: list[str] = []
    """Modules that are imported before it runs."""


class Service(Protocol):
    """What a script has prepared when it calls `run_service`."""

    name: str
    config: ServiceConfig
    request_op: RequestOp
    response_op: ResponseOp
    ops: list[Op]
    """In an order in which each comes after those that it takes from."""


class _Process:
    """This one: what it knows of the script that runs."""

    imports: ClassVar[list[str]] = []
    """`Script.imports`, where the operator has started it."""
    in_worker = False
    """Whether it runs because a worker needs its service."""
    service: Service | None = None


def in_worker() -> bool:
    """Whether the script that runs was not started by the operator, but by a worker."""
    return _Process.in_worker


def hand_over(service: Service) -> None:
    """In a worker, give it the service and end the script; elsewhere, do nothing."""
    if _Process.in_worker:
        _Process.service = service
        raise SystemExit


def import_first(module: str) -> None:
    """Let workers import this module, too, before they run the script that is about to run here."""
    _Process.imports.append(module)


def this() -> Script:
    """The script that runs. Raises ConfigError when there is no file of it."""
    file = getattr(sys.modules[_MAIN], "__file__", None)
    if file is None:
        raise ConfigError("the workers run the file that defines the service: put it into one, and start that")
    path = Path(file).absolute()
    return Script(path=str(path), arguments=sys.argv[1:], directory=str(Path.cwd()), imports=_Process.imports)


class _AsItIs(SourceFileLoader):
    """Compiles the file as it is now, as Python does with its main module. What is cached beside a file counts for it
    when both are as long and of the same second."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def run(script: Script) -> Service:
    """Run the script up to its `run_service`, as Python's main module. Its folder, arguments and working directory are
    what they were when it was started.

    Raises ArchiveUnusable when it ends without a service, and whatever it raises.
    """
    path = Path(script.path)
    if not path.is_file():
        raise ArchiveUnusable(f"{path}: no such file: the workers run it: put it back, or start the service from anew")
    os.chdir(script.directory)
    sys.argv = [str(path), *script.arguments]
    sys.path.insert(0, str(path.parent))
    for name in script.imports:
        importlib.import_module(name)
    loader = _AsItIs(_MAIN, str(path))
    spec = spec_from_loader(_MAIN, loader)
    assert spec is not None  # noqa: S101 - a file's loader always has one
    module = sys.modules[_MAIN] = module_from_spec(spec)
    _Process.in_worker = True
    try:
        loader.exec_module(module)
    except SystemExit as end:
        if _Process.service is None:
            raise ArchiveUnusable(f"{path}: ended with {end.code!r} before run_service()") from None
    if _Process.service is None:
        raise ArchiveUnusable(f"{path}: ended without run_service()")
    return _Process.service
