"""Packs a workflow: its specification, the file with its functions, and what these need."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from pdarchiver.contents import Contents
from pdarchiver.errors import PackingError
from pdarchiver.manifest import check_name
from pdarchiver.reading import Limits
from pdarchiver.staging import staged_file
from pdarchiver.workflow.manifest import MANIFEST_PATH, WorkflowManifest, dump
from pdarchiver.workflow.spec import Workflow, check_functions, node_model, read
from pdarchiver.writing import write_files

SUFFIX = ".war"


@dataclass(frozen=True, kw_only=True)
class WorkflowOptions:
    """What to pack. The fields are the command's flags; paths are relative to the working directory."""

    workflow_name: str
    spec_file: Path
    handler: Path | None = None
    """The Python file with the workflow's functions."""
    extra_files: tuple[str, ...] = ()
    """Files, folders and globs, as `PackOptions.extra_files`."""
    export_path: Path = Path()
    """The folder to write to. It is created if it is missing."""
    force: bool = False
    """Replace what an earlier run wrote."""
    created_on: datetime | None = None
    """The date for the manifest, which TorchServe insists on; None: now."""


def pack(options: WorkflowOptions, limits: Limits = Limits()) -> tuple[Path, Workflow]:  # noqa: B008 (frozen)
    """Write `NAME.war`, whole or not at all. Returns its path, and the workflow that is in it.

    Raises PackingError and InvalidPipeline, which say what to change, and OSError if the disk is full or not writable.
    """
    workflow = _checked(options)
    contents = Contents(limits)
    contents.add(options.spec_file.name, options.spec_file)
    if options.handler is not None:
        contents.add(options.handler.name, options.handler)
    for item in options.extra_files:
        contents.add_extra(item)
    target = _target(options)
    options.export_path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pd-workflow-archiver-") as scratch, staged_file(target) as file:
        manifest = Path(scratch) / "manifest"
        manifest.write_bytes(dump(_manifest(options)))
        contents.add(MANIFEST_PATH, manifest)
        write_files(file, contents.sources, limits)
    return target, workflow


def _checked(options: WorkflowOptions) -> Workflow:
    try:
        check_name(options.workflow_name)
    except ValueError as error:
        raise PackingError(str(error).replace("model name", "workflow name")) from None
    for flag, path in (("--spec-file", options.spec_file), ("--handler", options.handler)):
        if path is not None and not path.is_file():
            raise PackingError(f"{flag} {path}: {'not a file' if path.exists() else 'no such file'}")
    if options.handler is not None and options.handler.suffix != ".py":
        raise PackingError(f"--handler {options.handler}: expected a Python file (.py) with the workflow's functions")
    where = str(options.spec_file)
    workflow = read(options.spec_file.read_bytes(), where)
    check_functions(workflow, options.handler, where)
    for node in workflow.nodes:
        try:
            node_model(options.workflow_name, node.name)
        except ValueError:
            raise PackingError(
                f"{where}: {options.workflow_name}__{node.name} names a model, and is too long: shorten the name of "
                "the workflow or of the node"
            ) from None
    return workflow


def _target(options: WorkflowOptions) -> Path:
    folder = options.export_path
    if folder.exists() and not folder.is_dir():
        raise PackingError(f"--export-path {folder}: not a folder")
    target = folder / (options.workflow_name + SUFFIX)
    if target.is_dir():
        raise PackingError(f"{target} is a folder; remove it yourself, or use another --export-path")
    if target.exists() and not options.force:
        raise PackingError(f"{target} exists already; replace it with --force")
    return target


def _manifest(options: WorkflowOptions) -> WorkflowManifest:
    created_on = options.created_on or datetime.now(timezone.utc)
    return WorkflowManifest(
        name=options.workflow_name,
        spec_file=options.spec_file.name,
        handler=options.handler.name if options.handler else None,
        created_on=created_on.strftime("%d/%m/%Y %H:%M:%S"),
        archiver_version=metadata.version("pdserver"),
    )
