"""Finds the handler that `--handler` names, and checks that its file has something that a server can call."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pdarchiver.errors import PackingError, nearest

BUILT_IN_HANDLERS = (
    *("base_handler", "image_classifier", "object_detector", "image_segmenter", "text_classifier"),
    "sequence",
)
_ENTRY = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class Handler:
    """`name` is the manifest's: a built-in handler's name, `file.py`, or `file.py:function`."""

    name: str
    file: Path | None = None


def resolve(wanted: str) -> Handler:
    """Find the handler that the user means: a built-in name, or a path with or without `.py`, perhaps `:function`.

    Raises PackingError if there is none, if its file is not Python, or if nothing in it can be called.
    """
    if wanted in BUILT_IN_HANDLERS:
        return Handler(wanted)
    path_text, colon, entry = wanted.rpartition(":")
    if not colon:
        path_text, entry = wanted, ""
    elif not _ENTRY.fullmatch(entry):
        raise PackingError(f"--handler {wanted}: {entry!r} after the colon is not the name of a function or class")
    file = Path(path_text if path_text.endswith(".py") else path_text + ".py")
    if not file.is_file():
        raise PackingError(
            f"--handler {wanted}: neither a file {file} nor a built-in handler{nearest(wanted, BUILT_IN_HANDLERS)}; "
            f"built in are {', '.join(BUILT_IN_HANDLERS)}"
        )
    check_entry_point(file, entry)
    return Handler(f"{file.name}:{entry}" if entry else file.name, file)


def check_python(file: Path, title: str = "") -> ast.Module:
    """Parse a Python file without running it. Raises PackingError with the line that is wrong.

    `title` is what the file is called in errors; "": its path.
    """
    title = title or str(file)
    try:
        return ast.parse(file.read_bytes(), filename=str(file))
    except SyntaxError as error:
        raise PackingError(f"{title}:{error.lineno or 1}: not valid Python: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise PackingError(f"{title}: not valid Python: {error}") from None


def top_level_names(file: Path) -> set[str]:
    """The names that a Python file binds, read without running it; "*" for those of a star import, which can't be known
    so. Raises PackingError."""
    return set(_bound_names(check_python(file).body))


def check_entry_point(file: Path, entry: str, title: str = "") -> None:
    """Raises PackingError for a file that is not Python, and for one without the function or class `entry`; with "",
    for one without anything that a server would call. `title` is as for `check_python`."""
    module = check_python(file, title)
    title = title or str(file)
    bound = set(_bound_names(module.body))
    # The names of a star import cannot be known without running it.
    if (entry or "handle") in bound or "*" in bound:
        _check_class(module, title, entry)
        return
    if entry:
        raise PackingError(f"{title}: has no function or class {entry!r} at its top level{nearest(entry, bound)}")
    candidates = _handler_classes(module)
    if not candidates:
        raise PackingError(
            f"{title}: nothing to call: define a class with handle(self, data, context), derive one from "
            "pdserver.handlers.base.BaseHandler, or define a function handle(data, context)"
        )
    if len(candidates) > 1:
        raise PackingError(
            f"{title}: several classes have a handle method ({', '.join(candidates)}); keep one, or name the right "
            f"one: {title}:{candidates[0]}"
        )


def _check_class(module: ast.Module, title: str, entry: str) -> None:
    for node in module.body:
        if not isinstance(node, ast.ClassDef) or node.name != entry or node.bases:  # bases may have the method
            continue
        if "handle" not in set(_bound_names(node.body)):
            raise PackingError(f"{title}:{node.lineno}: class {entry} has no method handle(self, data, context)")


def _handler_classes(module: ast.Module) -> list[str]:
    """The classes from which the server would choose: those with a method `handle` that have no subclass here. If there
    are none, the first that may inherit it from a class defined elsewhere."""
    classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
    bases = {base.id for node in classes for base in node.bases if isinstance(base, ast.Name)}
    own = [node.name for node in classes if "handle" in set(_bound_names(node.body)) and node.name not in bases]
    # A file may also contain the network (a paddle.nn.Layer), so two subclasses are no error.
    return own or [node.name for node in classes if node.bases][:1]


def _bound_names(body: list[ast.stmt]) -> Iterator[str]:
    """The names that the statements of a module or class bind, also inside its if and try statements."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))
        elif isinstance(node, ast.If | ast.Try | ast.With):
            blocks = [node.body, getattr(node, "orelse", []), getattr(node, "finalbody", [])]
            blocks += [clause.body for clause in getattr(node, "handlers", [])]
            yield from (name for block in blocks for name in _bound_names(block))
