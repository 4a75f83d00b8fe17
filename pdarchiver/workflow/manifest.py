"""The manifest of a `.war`, as torch-workflow-archiver writes it. Nothing here touches a disk."""

from __future__ import annotations

import json
from dataclasses import dataclass

from pdarchiver.errors import InvalidManifest
from pdarchiver.jsonfields import JsonObject, load
from pdarchiver.manifest import MAX_MANIFEST_BYTES, check_name
from pdarchiver.names import path_problem

MANIFEST_PATH = "WAR-INF/MANIFEST.json"


@dataclass(frozen=True, kw_only=True)
class WorkflowManifest:
    """File attributes are paths inside the archive."""

    name: str | None
    """None in a manifest that leaves it out; whoever registers the workflow must name it then."""
    spec_file: str
    handler: str | None = None
    """The Python file with the workflow's functions, if it has any."""
    created_on: str | None = None
    archiver_version: str | None = None


def parse(data: bytes) -> WorkflowManifest:
    """Read a manifest. Raises InvalidManifest, which says which field is wrong and what was expected."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise InvalidManifest("", f"{len(data)} bytes long; at most {MAX_MANIFEST_BYTES} are read")
    top = load(data)
    workflow = JsonObject("/workflow", top.mapping("workflow"))
    spec_file = workflow.required_text("specFile")
    if problem := path_problem(spec_file):
        workflow.fail("specFile", f"the name {spec_file[:200]!r} {problem}")
    return WorkflowManifest(
        name=workflow.text("workflowName", check=check_name),
        spec_file=spec_file,
        handler=workflow.text("handler", check=_check_handler),
        created_on=top.text("createdOn"),
        archiver_version=top.text("archiverVersion"),
    )


def dump(manifest: WorkflowManifest) -> bytes:
    """The manifest as JSON. TorchServe refuses one without a date and an archiver's version."""
    workflow = {"workflowName": manifest.name, "specFile": manifest.spec_file, "handler": manifest.handler}
    root = {
        "createdOn": manifest.created_on,
        "workflow": {key: value for key, value in workflow.items() if value is not None},
        "archiverVersion": manifest.archiver_version,
    }
    return json.dumps(root, indent=2, ensure_ascii=False).encode() + b"\n"


def _check_handler(path: str) -> None:
    if problem := path_problem(path):
        raise ValueError(f"the name {path[:200]!r} {problem}")
    if not path.endswith(".py"):
        raise ValueError(f"{path[:200]!r} is not a Python file")
