"""Packs a model and what it needs into one archive."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Literal, get_args

from pdarchiver import handler, labels, model, modelconfig, samples, signature, texts, writing
from pdarchiver.contents import Contents
from pdarchiver.errors import PackingError, nearest
from pdarchiver.manifest import (
    DEFAULT_HANDLER,
    MANIFEST_PATHS,
    Manifest,
    Signature,
    check_name,
    check_runtime,
    check_version,
)
from pdarchiver.reading import Limits
from pdarchiver.signature import Program
from pdarchiver.staging import staged_file, staged_folder

ArchiveFormat = Literal["default", "zip-store", "tgz", "no-archive"]
ARCHIVE_FORMATS: tuple[ArchiveFormat, ...] = get_args(ArchiveFormat)
_EXTENSIONS: dict[ArchiveFormat, str] = {"default": ".pdar", "zip-store": ".pdar", "tgz": ".tar.gz", "no-archive": ""}
CLASSIFIERS = ("image_classifier", "text_classifier")
"""Built-in handlers for models whose first output is one number for each class."""


@dataclass(frozen=True, kw_only=True)
class ArchiveOptions:
    """What every archive has. The fields are the command's flags; paths are relative to the working directory."""

    model_name: str
    version: str
    extra_files: tuple[str, ...] = ()
    """Files, folders and globs. A folder keeps its name; with a slash at its end, its contents come without it."""
    runtime: str = "python"
    export_path: Path = Path()
    """The folder to write to. It is created if it is missing."""
    archive_format: ArchiveFormat = "default"
    force: bool = False
    """Replace what an earlier run wrote."""
    requirements_file: Path | None = None
    config_file: Path | None = None
    """YAML: settings for the server; of a model, public names for its inputs and outputs as well."""
    created_on: datetime | None = None
    """The date for the manifest. None by default: with the current time, the same files would give other bytes each
    time, and the files' own times change with each checkout and copy."""


@dataclass(frozen=True, kw_only=True)
class PackOptions(ArchiveOptions):
    """What to pack for a model."""

    handler: str = DEFAULT_HANDLER
    """A built-in handler's name, or a path with or without `.py`, perhaps followed by `:function`."""
    serialized_file: Path | None = None
    """A model file (`.json`, `.pdmodel`, `.onnx`), an inference folder or a Paddle Serving folder."""
    params_file: Path | None = None
    """None: the `.pdiparams` beside the model file."""
    model_file: Path | None = None
    """Python code of the model, for handlers that build it themselves."""


def pack(options: PackOptions, limits: Limits = Limits()) -> Path:  # noqa: B008 (frozen)
    """Write the archive and return its path: `NAME.pdar`, `NAME.tar.gz`, or the folder `NAME`.

    Equal options and files give equal bytes. The archive appears whole or not at all. Raises PackingError or
    InvalidModel, which say what to change, and OSError if the disk is full or not writable.
    """
    with tempfile.TemporaryDirectory(prefix="pd-model-archiver-") as scratch:
        return write_archive(options, limits, lambda: _plan(options, limits, Path(scratch)))


def write_archive(options: ArchiveOptions, limits: Limits, plan: Callable[[], tuple[Manifest, Contents]]) -> Path:
    """Write the archive that `plan` describes, by a manifest without checksums and the files. Returns its path."""
    _check_words(options)
    manifest, contents = plan()
    target = _target(options)  # last, so that mistakes in the input are reported first
    _check_outside(target, contents.sources.values())
    options.export_path.mkdir(parents=True, exist_ok=True)
    return _write(options, limits, target, manifest, contents.sources)


def described(options: ArchiveOptions) -> Manifest:
    """The part of a manifest that every archive has."""
    return Manifest(
        model_name=options.model_name,
        model_version=options.version,
        requirements_file=options.requirements_file.name if options.requirements_file else None,
        config_file=options.config_file.name if options.config_file else None,
        runtime=options.runtime,
        created_on=options.created_on.strftime("%d/%m/%Y %H:%M:%S") if options.created_on else None,
        archiver_version=metadata.version("pdserver"),
    )


def _write(
    options: ArchiveOptions, limits: Limits, target: Path, manifest: Manifest, sources: Mapping[str, Path]
) -> Path:
    if options.archive_format == "no-archive":
        with staged_folder(target, replace=options.force) as folder:
            writing.write_folder(folder, sources, manifest)
        return target
    with staged_file(target) as file:
        if options.archive_format == "tgz":
            writing.write_tar(file, sources, manifest, limits, options.model_name)
        else:
            writing.write_zip(file, sources, manifest, limits, store_only=options.archive_format == "zip-store")
    return target


def _check_words(options: ArchiveOptions) -> None:
    try:
        check_name(options.model_name)
        check_version(options.version)
        check_runtime(options.runtime)
    except ValueError as error:
        raise PackingError(str(error)) from None
    if options.archive_format not in ARCHIVE_FORMATS:
        raise PackingError(
            f"archive format {options.archive_format!r}{nearest(options.archive_format, ARCHIVE_FORMATS)}: must be one "
            f"of {', '.join(ARCHIVE_FORMATS)}"
        )


def _target(options: ArchiveOptions) -> Path:
    """Where the archive will be. Raises PackingError if something is there that may not be replaced."""

    folder = options.export_path
    if folder.exists() and not folder.is_dir():
        raise PackingError(f"--export-path {folder}: not a folder")
    target = folder / (options.model_name + _EXTENSIONS[options.archive_format])
    if not target.exists():
        return target
    if not options.force:
        raise PackingError(f"{target} exists already; replace it with --force")
    # --force is for what this command wrote, not for any folder that happens to have the model's name.
    if options.archive_format == "no-archive":
        if not any((target / path).is_file() for path in MANIFEST_PATHS):
            raise PackingError(f"{target} exists and is no packed model; remove it yourself, or use another name")
    elif target.is_dir():
        raise PackingError(f"{target} is a folder; remove it yourself, or use another --export-path")
    return target


def _check_outside(target: Path, sources: Iterable[Path]) -> None:
    place = target.resolve()
    for source in sources:
        resolved = source.resolve()
        if place == resolved or place in resolved.parents:
            raise PackingError(f"{source}: the archive would hold itself; choose another --export-path")


def _plan(options: PackOptions, limits: Limits, scratch: Path) -> tuple[Manifest, Contents]:
    """The manifest without the checksums, and the files with their places in the archive. Files that are generated are
    written to the folder `scratch`."""
    contents = Contents(limits)

    def put(path: Path | None) -> str | None:
        if path is None:
            return None
        contents.add(path.name, path)
        return path.name

    found = _find_model(options, scratch)
    named = handler.resolve(options.handler)
    put(named.file)
    put(options.requirements_file)
    put(options.config_file)
    program = _read(found)
    manifest = replace(
        described(options),
        handler=named.name,
        serialized_file=put(found.model) if found else None,
        params_file=put(found.params) if found else None,
        model_file=put(options.model_file),
        signature=_named(program, options.config_file),
    )
    if found and program:
        for name in program.files:
            contents.add(name, found.model.parent / name)
    if options.model_file:
        handler.check_python(options.model_file)
    put(found.config if found else None)
    for item in options.extra_files:
        contents.add_extra(item)
    if options.config_file is not None:
        config = modelconfig.read(options.config_file)
        for name in samples.files(config, options.config_file, manifest.signature):
            if name not in contents.sources:
                contents.add(name, options.config_file.parent / name)
    _check_texts(contents, manifest)
    return manifest, contents


def _check_texts(contents: Contents, manifest: Manifest) -> None:
    """Check the text files that the built-in handlers read. Raises InvalidText."""
    # A custom handler may have files with these names in any form.
    for name in labels.LABEL_FILES if manifest.handler in handler.BUILT_IN_HANDLERS else ():
        if path := contents.sources.get(name):
            labels.check(path.read_bytes(), str(path), _classes(manifest))
    for name in model.INFERENCE_CONFIGS:
        if path := contents.sources.get(name):
            texts.check_yaml(path)


def _classes(manifest: Manifest) -> int | None:
    """The number of classes, if the handler is one whose model has a number for each class."""
    if manifest.handler not in CLASSIFIERS or manifest.signature is None:
        return None
    count = manifest.signature.outputs[0].shape[-1] if manifest.signature.outputs[0].shape else 1
    return count if count > 1 else None


def _find_model(options: PackOptions, scratch: Path) -> model.ModelFiles | None:
    if options.serialized_file is not None:
        # A model as Python code comes with a bare state dict, which has no inputs and outputs to read.
        if options.model_file and options.serialized_file.suffix == ".pdparams":
            return model.ModelFiles(options.serialized_file, options.params_file, described=False)
        return model.with_one_weights_file(model.find(options.serialized_file, options.params_file), scratch)
    if options.params_file is not None:
        raise PackingError(f"--params-file {options.params_file}: name its model as well, with --serialized-file")
    return None


def _read(found: model.ModelFiles | None) -> Program | None:
    """What the model's file says of it. Also checks the files that belong to it. None: it is Python code."""
    return model.read_program(found) if found and found.described else None


def _named(program: Program | None, config_file: Path | None) -> Signature | None:
    """The model's signature with its public names. Also checks the config file."""
    config = modelconfig.read(config_file) if config_file else {}
    if program is None:
        return None
    if config_file is None:
        return program.signature
    inputs, outputs = (modelconfig.public_names(config, side, config_file) for side in ("inputs", "outputs"))
    return signature.rename(program.signature, inputs, outputs, str(config_file))
