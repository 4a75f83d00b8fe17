"""What a pipeline needs from the disk: its pipeline.yaml, and the archives that are packed inside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pdarchiver.errors import ArchiveError
from pdarchiver.manifest import Manifest, check_name
from pdarchiver.pipeline.graph import PIPELINE_FILE, ModelBody, Pipeline
from pdarchiver.pipeline.named import check_files, named_files
from pdarchiver.pipeline.reading import read
from pdserver.errors import ArchiveUnusable, Forbidden
from pdserver.formats.values import shown
from pdserver.store.model import StoredModel

_MAX_BYTES = 4 * 1024 * 1024


def is_pipeline(folder: Path) -> bool:
    return (folder / PIPELINE_FILE).is_file()


def manifest_of(folder: Path) -> Manifest:
    """Of a folder of the store with a pipeline.yaml and no manifest: the folder's name is the pipeline's."""
    config = "model-config.yaml" if (folder / "model-config.yaml").is_file() else None
    try:
        name: str | None = check_name(folder.name)
    except ValueError:
        name = None
    return Manifest(model_name=name, pipeline=PIPELINE_FILE, config_file=config)


def opened(
    model: StoredModel, open_archive: Callable[[str, Path], StoredModel], release: Callable[[StoredModel], None]
) -> StoredModel:
    """The model with the pipeline that its manifest names, and the archives in it; unchanged when it names none.

    `open_archive` opens one by its name for errors and its path, and `release` gives it back. Raises ArchiveUnusable,
    Forbidden for a link out of the folder, and what `open_archive` raises.
    """
    file = model.manifest.pipeline
    if file is None:
        return model
    where = f"{shown(model.url)}: {file}"
    pipeline = _read(_inside(model, file, shown(model.url)), where)
    for named in named_files(pipeline):
        _inside(model, named.path, f"{where}: {named.place}")
    try:
        check_files(pipeline, model.directory)
    except ArchiveError as error:
        raise ArchiveUnusable(f"{where}: {error}") from None
    nested: dict[str, StoredModel] = {}
    try:
        for _, node in pipeline.graph.walk():
            archive = node.body.archive if isinstance(node.body, ModelBody) else ""
            if archive and archive not in nested:
                inner = nested[archive] = open_archive(f"{model.url}/{archive}", _inside(model, archive, where))
                if inner.manifest.pipeline is not None:
                    raise ArchiveUnusable(
                        f"{where}: {archive} is a pipeline itself, and no model: register it and ask it by its name"
                        " (model), or write its nodes here (nodes)"
                    )
    except BaseException:
        for each in nested.values():
            release(each)
        raise
    return replace(model, pipeline=pipeline, nested=nested)


def _read(path: Path, where: str) -> Pipeline:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ArchiveUnusable(f"{where}: more than {_MAX_BYTES} bytes long")
        return read(path.read_bytes(), where)
    except ArchiveError as error:
        raise ArchiveUnusable(str(error)) from None
    except OSError as error:
        raise ArchiveUnusable(f"{where}: cannot be read: {error.strerror}") from None


def _inside(model: StoredModel, name: str, where: str) -> Path:
    """The path of a file of the pipeline, links resolved; `where` is what names it."""
    try:
        path = (model.directory / name).resolve()
    except (OSError, RuntimeError):
        raise ArchiveUnusable(f"{where}: {shown(name)}: a loop of links") from None
    if not path.is_relative_to(model.directory.resolve()):
        raise Forbidden(f"{where}: {shown(name)}: a link that leads out of the pipeline's folder")
    return path
