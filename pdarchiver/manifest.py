"""Parses, validates and writes manifests. Nothing here touches a disk.

The layout is TorchServe's (`MAR-INF/MANIFEST.json`) with additions: `model.paramsFile`, `signature`, `pipeline`,
`engines`, `measured` and `files`. A `.mar` is read as an archive without them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pdarchiver.dtypes import DTYPES
from pdarchiver.errors import InvalidArchive, InvalidManifest
from pdarchiver.jsonfields import JsonObject, load, shown
from pdarchiver.names import path_problem

MANIFEST_PATH = "PDAR-INF/MANIFEST.json"
TORCHSERVE_MANIFEST_PATH = "MAR-INF/MANIFEST.json"
MANIFEST_PATHS = (MANIFEST_PATH, TORCHSERVE_MANIFEST_PATH)
"""In the order of preference."""
MAX_MANIFEST_BYTES = 16 * 1024 * 1024
"""Room for 10,000 files with long names."""

DEFAULT_HANDLER = "base_handler"
RUNTIMES = ("python", "python3")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HANDLER = re.compile(r"(?P<file>[^:]+?)(:(?P<entry>[A-Za-z_]\w*))?")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model."""

    name: str
    """The public name, after renaming, which clients use."""
    dtype: str
    """numpy's name ("float32", "int64", "bool", …), or "bfloat16"."""
    shape: tuple[int, ...]
    """-1 where any length is allowed; () for a scalar."""
    source: str
    """The model's own name for it."""

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}{list(self.shape)}"


@dataclass(frozen=True)
class Signature:
    """A model's inputs and outputs, in the model's order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __str__(self) -> str:
        return " -> ".join(", ".join(map(str, side)) or "nothing" for side in (self.inputs, self.outputs))


@dataclass(frozen=True)
class EngineFile:
    """The model in another form, for engines other than the one it was made for."""

    file: str
    """Its path in the archive; its ending tells the form."""
    made_by: Mapping[str, str]
    """Package → version."""
    inputs: tuple[str, ...]
    """The names there, in the signature's order."""
    outputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One archive's description. File attributes are paths inside the archive, or None if there is no such file."""

    model_name: str | None
    """None in a manifest that leaves it out, which TorchServe allows."""
    model_version: str = "1.0"
    handler: str = DEFAULT_HANDLER
    """A built-in handler's name, `file.py`, or `file.py:function`."""
    serialized_file: str | None = None
    params_file: str | None = None
    model_file: str | None = None
    requirements_file: str | None = None
    config_file: str | None = None
    runtime: str = "python"
    created_on: str | None = None
    archiver_version: str | None = None
    signature: Signature | None = None
    pipeline: str | None = None
    """The pipeline's file, of an archive that holds a pipeline and no model."""
    engines: tuple[EngineFile, ...] = ()
    measured: Mapping[str, Any] | None = None
    """What `pdserver optimize` found of the engines on one machine. The server does not rely on it."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Path → sha256 in hexadecimal, of every file but the manifest."""
    raw: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The complete JSON that this was read from, with fields that this package does not know."""

    @property
    def has_checksums(self) -> bool:
        return "files" in self.raw

    @property
    def handler_file(self) -> str | None:
        """The handler's file in the archive, or None for a built-in handler."""
        name = self.handler.partition(":")[0]
        return name if name.endswith(".py") else None

    def check_files(self, digests: Mapping[str, str]) -> None:
        """Compare with an archive's files: `digests` is path → sha256 of every file, without the manifest.

        Raises InvalidArchive naming the files that are missing, added or changed.
        """
        model = (self.serialized_file, self.params_file, self.model_file)
        named = (*model, self.requirements_file, self.config_file, self.pipeline, *(each.file for each in self.engines))
        absent = {path for path in (*named, self.handler_file) if path is not None and path not in digests}
        if self.has_checksums:
            absent |= self.files.keys() - digests.keys()
        if absent:
            raise InvalidArchive(f"the manifest names files that are not in the archive: {_listed(absent)}")
        if not self.has_checksums:
            return
        if added := digests.keys() - self.files.keys():
            raise InvalidArchive(f"files were added after packing, the manifest does not know them: {_listed(added)}")
        if changed := {path for path, digest in digests.items() if self.files[path] != digest}:
            raise InvalidArchive(f"files differ from their checksum in the manifest: {_listed(changed)}")


def check_name(name: str) -> str:
    """Check a model's name and return it. Raises ValueError, whose text can be shown to users."""
    return _checked(name, "model name")


def check_version(version: str) -> str:
    """Check a version and return it. The rule is that of names, since a version is also a segment of a URL."""
    return _checked(version, "model version")


def _checked(text: str, what: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(
            f"{what} {text[:200]!r}: must start with a letter or a digit, followed by at most 127 letters, digits, "
            "dots, dashes or underscores"
        )
    return text


def parse(data: bytes) -> Manifest:
    """Read a manifest. Raises InvalidManifest, which says which field is wrong and what was expected."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise InvalidManifest("", f"{len(data)} bytes long; at most {MAX_MANIFEST_BYTES} are read")
    top = load(data)
    model = JsonObject("/model", top.mapping("model") or {})
    found = Manifest(
        model_name=model.text("modelName", check=check_name),
        model_version=model.text("modelVersion", check=check_version) or Manifest.model_version,
        handler=model.text("handler", check=_check_handler) or Manifest.handler,
        serialized_file=model.text("serializedFile", check=_check_path),
        params_file=model.text("paramsFile", check=_check_path),
        model_file=model.text("modelFile", check=_check_path),
        requirements_file=model.text("requirementsFile", check=_check_path),
        config_file=model.text("configFile", check=_check_path),
        runtime=top.text("runtime", check=check_runtime) or Manifest.runtime,
        created_on=top.text("createdOn"),
        archiver_version=top.text("archiverVersion"),
        signature=_signature(top.mapping("signature")),
        pipeline=top.text("pipeline", check=_check_path),
        engines=_engines(top),
        measured=top.mapping("measured"),
        files=_files(top.mapping("files") or {}),
        raw=top.value,
    )
    for i, engine in enumerate(found.engines):
        sides = (found.signature.inputs, found.signature.outputs) if found.signature else ((), ())
        if (len(engine.inputs), len(engine.outputs)) != tuple(map(len, sides)):
            top.fail("engines", f"number {i} does not name as many inputs and outputs as the signature has")
    if found.pipeline is not None:
        for key, value in (("serializedFile", found.serialized_file), ("modelFile", found.model_file)):
            if value is not None:
                model.fail(key, "an archive holds a model or a pipeline, and this one names both")
    return found


def dump(manifest: Manifest) -> bytes:
    """The manifest as JSON, in one fixed form: equal manifests give equal bytes. `raw` is not written."""
    model = {
        "modelName": manifest.model_name,
        "modelVersion": manifest.model_version,
        "handler": manifest.handler if manifest.pipeline is None else None,
        "serializedFile": manifest.serialized_file,
        "paramsFile": manifest.params_file,
        "modelFile": manifest.model_file,
        "requirementsFile": manifest.requirements_file,
        "configFile": manifest.config_file,
    }
    root = {
        "createdOn": manifest.created_on,
        "runtime": manifest.runtime,
        "archiverVersion": manifest.archiver_version,
        "model": _present(model),
        "signature": manifest.signature
        and {
            "inputs": [vars(spec) | {"shape": list(spec.shape)} for spec in manifest.signature.inputs],
            "outputs": [vars(spec) | {"shape": list(spec.shape)} for spec in manifest.signature.outputs],
        },
        "pipeline": manifest.pipeline,
        "engines": [
            {"file": each.file, "madeBy": dict(each.made_by), "inputs": each.inputs, "outputs": each.outputs}
            for each in manifest.engines
        ]
        or None,
        "measured": manifest.measured,
        "files": dict(sorted(manifest.files.items())),
    }
    return json.dumps(_present(root), indent=2, ensure_ascii=False).encode() + b"\n"


def check_runtime(runtime: str) -> str:
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime {runtime[:200]!r}: must be one of {', '.join(RUNTIMES)}")
    return runtime


def _check_path(path: str) -> str:
    if problem := path_problem(path):
        raise ValueError(f"the name {path[:200]!r} {problem}")
    return path


def _check_handler(handler: str) -> str:
    match = _HANDLER.fullmatch(handler)
    if match is None:
        raise ValueError(f"{handler[:200]!r} is neither a handler's name, nor file.py, nor file.py:function")
    _check_path(match["file"])
    return handler


def _signature(value: dict[str, Any] | None) -> Signature | None:
    if value is None:
        return None
    sides = JsonObject("/signature", value)
    return Signature(_specs(sides, "inputs"), _specs(sides, "outputs"))


def _specs(sides: JsonObject, key: str) -> tuple[TensorSpec, ...]:
    items = sides.array(key)
    if items is None:
        sides.fail(key, "expected an array")
    specs = tuple(_spec(JsonObject(f"{sides.pointer}/{key}/{i}", item)) for i, item in enumerate(items))
    if len({spec.name for spec in specs}) < len(specs) or len({spec.source for spec in specs}) < len(specs):
        sides.fail(key, "names are not unique")
    return specs


def _spec(item: JsonObject) -> TensorSpec:
    dtype = item.required_text("dtype")
    if dtype not in DTYPES:
        item.fail("dtype", f"{dtype[:200]!r} is not one of {', '.join(sorted(DTYPES))}")
    shape = item.array("shape")
    # In Python, bool is an int; in JSON it is not.
    if shape is None or not all(type(length) is int and -1 <= length < 2**63 for length in shape):
        item.fail("shape", f"expected an array of lengths, -1 where any length will do, found {shown(shape)}")
    return TensorSpec(item.required_text("name"), dtype, tuple(shape), item.required_text("source"))


def _engines(top: JsonObject) -> tuple[EngineFile, ...]:
    items = top.array("engines") or ()
    return tuple(_engine(JsonObject(f"/engines/{i}", item)) for i, item in enumerate(items))


def _engine(item: JsonObject) -> EngineFile:
    file = item.text("file", check=_check_path) or item.fail("file", "expected a string that is not empty")
    made_by = {str(name): str(version) for name, version in (item.mapping("madeBy") or {}).items()}
    return EngineFile(file, made_by, _names(item, "inputs"), _names(item, "outputs"))


def _names(item: JsonObject, key: str) -> tuple[str, ...]:
    names = item.array(key) or []
    if not all(isinstance(name, str) for name in names):
        item.fail(key, f"expected an array of names, found {shown(names)}")
    return tuple(names)


def _files(value: dict[str, Any]) -> dict[str, str]:
    files = JsonObject("/files", value)
    for path, digest in value.items():
        if problem := path_problem(path):
            files.fail(path, f"the name {problem}")
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            files.fail(path, f"expected a sha256 of 64 hexadecimal digits, found {shown(digest)}")
    return value


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}


def _listed(paths: set[str]) -> str:
    shown = sorted(paths)[:5]
    return ", ".join(shown) + (f" and {len(paths) - len(shown)} more" if len(paths) > len(shown) else "")
