"""Packs a pipeline and the files that it names into one archive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from pdarchiver import archive, folders, modelconfig
from pdarchiver.contents import Contents
from pdarchiver.errors import ArchiveError, InvalidPipeline, PackingError
from pdarchiver.manifest import MANIFEST_PATHS, Manifest
from pdarchiver.pack import ArchiveOptions, described, write_archive
from pdarchiver.pipeline.checks import Sides, Signatures, output_types, sides
from pdarchiver.pipeline.graph import PIPELINE_FILE, ModelBody, Pipeline, Type
from pdarchiver.pipeline.named import check_files, named_files
from pdarchiver.pipeline.reading import read
from pdarchiver.reading import Limits
from pdarchiver.safe_yaml import MAX_YAML_BYTES


@dataclass(frozen=True, kw_only=True)
class PipelineOptions(ArchiveOptions):
    """What to pack for a pipeline."""

    pipeline: Path
    """Its YAML. The files that it names lie beside it."""


@dataclass(frozen=True)
class PackedPipeline:
    path: Path
    """Of the archive."""
    pipeline: Pipeline
    outputs: Mapping[str, Type]
    """What it gives, as far as that is known."""


def pack_pipeline(options: PipelineOptions, limits: Limits = Limits()) -> PackedPipeline:  # noqa: B008 (frozen)
    """Write the archive, as `pack` does for a model: the pipeline's file, the files that it names, extra files.

    It is checked against the signatures of the models that are packed inside. Nothing is known of those of the store.
    Raises InvalidPipeline, PackingError and OSError.
    """
    file = options.pipeline
    if not file.is_file():
        raise PackingError(f"--pipeline {file}: {'not a file' if file.exists() else 'no such file'}")
    if file.stat().st_size > MAX_YAML_BYTES:
        raise InvalidPipeline("", f"more than {MAX_YAML_BYTES} bytes of YAML", str(file))
    pipeline = read(file.read_bytes(), str(file))
    try:
        check_files(pipeline, file.parent)
        _check_models(pipeline, file.parent)
        outputs = output_types(pipeline, packed_signatures(file.parent))
    except InvalidPipeline as error:
        raise error.within(str(file)) from None
    path = write_archive(options, limits, lambda: _plan(options, limits, pipeline))
    return PackedPipeline(path, pipeline, outputs)


def _plan(options: PipelineOptions, limits: Limits, pipeline: Pipeline) -> tuple[Manifest, Contents]:
    contents = Contents(limits)
    contents.add(PIPELINE_FILE, options.pipeline)
    for named in named_files(pipeline):
        contents.add_below(named.path, options.pipeline.parent / named.path)
    for path in (options.requirements_file, options.config_file):
        if path is not None:
            contents.add(path.name, path)
    if options.config_file is not None:
        modelconfig.read(options.config_file)
    for item in options.extra_files:
        contents.add_extra(item)
    return replace(described(options), pipeline=PIPELINE_FILE), contents


def _check_models(pipeline: Pipeline, folder: Path) -> None:
    """Raises InvalidPipeline for what is named as an archive and holds no model."""
    for named in named_files(pipeline):
        if named.kind != "archive":
            continue
        try:
            held = _manifest(folder / named.path)
        except ArchiveError as error:
            raise InvalidPipeline(named.place, str(error)) from None
        if held.pipeline is not None:
            raise InvalidPipeline(
                named.place, f"{named.path!r} holds a pipeline: register that by itself, and name it with `model:`"
            )


def packed_signatures(folder: Path) -> Signatures:
    """What is known of the models that are packed inside, whose archives are in the folder."""

    @cache
    def of(path: str) -> Sides | None:
        return sides(_manifest(folder / path))

    def signatures(_path: str, body: ModelBody) -> Sides | None:
        return of(body.archive) if body.archive else None

    return signatures


def _manifest(path: Path) -> Manifest:
    """Of an archive, or of a folder with a model. Raises ArchiveError."""
    if path.is_dir() and not any((path / each).is_file() for each in MANIFEST_PATHS):
        return folders.describe(path, None)
    return archive.inspect(path).manifest
