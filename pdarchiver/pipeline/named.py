"""Which files a pipeline names, beside its own."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from pdarchiver import handler
from pdarchiver.errors import InvalidPipeline, PackingError, nearest
from pdarchiver.pipeline.graph import ModelBody, Pipeline, PythonBody
from pdarchiver.pipeline.order import written


class Named(NamedTuple):
    place: str
    """In the YAML, such as "nodes.find.python"."""
    kind: Literal["python", "archive", "sample"]
    path: str
    """Beside the pipeline's file."""
    entry: str = ""
    """The function or class of a Python file; "" where the file alone is named."""


def named_files(pipeline: Pipeline) -> Iterator[Named]:
    for names, node in written(pipeline.graph):
        place = ".".join(f"nodes.{name}" for name in names)
        if isinstance(node.body, PythonBody):
            file, _, entry = node.body.entry.partition(":")
            yield Named(f"{place}.python", "python", file, entry)
        elif isinstance(node.body, ModelBody) and node.body.archive:
            yield Named(f"{place}.archive", "archive", node.body.archive)
    for index, sample in enumerate(pipeline.samples):
        for name, path in sample.items():
            yield Named(f"samples[{index}].{name}", "sample", path)


def check_named(pipeline: Pipeline, there: Collection[str]) -> None:
    """Raises InvalidPipeline for a file that it names and that is not `there`, where files are and folders may be."""
    paths = {*there, *(parent.as_posix() for path in there for parent in PurePosixPath(path).parents)}
    for named in named_files(pipeline):
        if named.path not in paths:
            raise _missing(named, there)


def check_files(pipeline: Pipeline, folder: Path) -> None:
    """Raises InvalidPipeline for a file that it names and that is not in the folder, and for Python files that are none
    or lack what is named in them."""
    for named in named_files(pipeline):
        path = folder / named.path
        if not (path.exists() if named.kind == "archive" else path.is_file()):
            raise _missing(named, sorted(each.relative_to(folder).as_posix() for each in path.parent.glob("*")))
        if named.kind == "python":
            try:
                handler.check_entry_point(path, named.entry, named.path)
            except PackingError as error:
                raise InvalidPipeline(named.place, str(error)) from None


def _missing(named: Named, there: Collection[str]) -> InvalidPipeline:
    return InvalidPipeline(
        named.place, f"no {named.path[:200]!r} beside the pipeline's file{nearest(named.path[:200], there)}"
    )
