"""A workflow's archive, unpacked: what its manifest and its specification say, and the models that its nodes are."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from pdarchiver.errors import ArchiveError
from pdarchiver.manifest import Manifest
from pdarchiver.pipeline.graph import Pipeline
from pdarchiver.workflow import manifest as manifests
from pdarchiver.workflow.spec import Workflow, check_functions, read
from pdserver.errors import ArchiveUnusable, Forbidden
from pdserver.formats.values import shown
from pdserver.store.model import StoredModel, reason


@dataclass(frozen=True)
class OpenWorkflow:
    workflow: Workflow
    name: str | None
    """The manifest's; None when it has none."""
    spec_file: str
    handler: str
    """The file with its functions, by its path in the archive; "" for none."""
    stored: StoredModel
    """The archive."""

    def model(self, pipeline: Pipeline | None = None) -> StoredModel:
        """What is in the archive as a model: the workflow's pipeline, or its handler file."""
        raw = {"workflow": {"specFile": self.spec_file}} if pipeline else {}
        return dataclasses.replace(self.stored, manifest=Manifest(model_name=self.name, raw=raw), pipeline=pipeline)


def opened(stored: StoredModel) -> OpenWorkflow:
    """Read the archive. Blocks. Raises ArchiveUnusable for what is wrong with it, Forbidden for a link out of it."""
    where = shown(stored.url)
    try:
        manifest = manifests.parse(_file(stored, manifests.MANIFEST_PATH, where).read_bytes())
        spec = f"{where}: {manifest.spec_file}"
        workflow = read(_file(stored, manifest.spec_file, where).read_bytes(), spec)
        check_functions(workflow, _file(stored, manifest.handler, where) if manifest.handler else None, spec)
    except ArchiveError as error:
        text = str(error)
        raise ArchiveUnusable(text if text.startswith(where) else f"{where}: {text}") from None
    except OSError as error:
        raise ArchiveUnusable(f"{where}: cannot be read: {reason(error)}") from None
    return OpenWorkflow(workflow, manifest.name, manifest.spec_file, manifest.handler or "", stored)


def _file(stored: StoredModel, name: str, where: str) -> Path:
    path = (stored.directory / name).resolve()
    if not path.is_relative_to(stored.directory.resolve()):
        raise Forbidden(f"{where}: {shown(name)}: a link that leads out of the archive")
    if not path.is_file():
        hint = "; pack the workflow with pd-workflow-archiver" if name == manifests.MANIFEST_PATH else ""
        raise ArchiveUnusable(f"{where}: has no {shown(name)}{hint}")
    return path
