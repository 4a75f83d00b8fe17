"""Puts into an archive what other engines than Paddle read: the model, converted once, beside the original.

The manifest says in its section `engines` what was made, and by what. Readers that do not know the section ignore it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pdarchiver import archive, encryption, onnx_model, to_onnx, writing
from pdarchiver.archive import ArchiveInfo
from pdarchiver.contents import Contents
from pdarchiver.errors import InvalidModel, PackingError
from pdarchiver.manifest import EngineFile, Manifest, Signature, TensorSpec
from pdarchiver.reading import Limits
from pdarchiver.staging import staged_file, staged_folder
from pdarchiver.to_onnx import NotConverted

FOLDER = "engines"
FILE = f"{FOLDER}/model.onnx"
Measure = Callable[[Path, Manifest], Mapping[str, object]]
"""A folder with the archive's files, and its manifest → what was measured, as JSON."""


@dataclass(frozen=True)
class Optimized:
    """What `optimize` has done with an archive."""

    path: Path
    manifest: Manifest
    made: EngineFile | None
    """None: nothing was made."""
    reason: str = ""
    """Why nothing was."""


def optimize(
    path: Path,
    seconds: float = to_onnx.SECONDS,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    measure: Measure | None = None,
) -> Optimized:
    """Convert the model of an archive, and put the result into it. What was there of an earlier run is replaced.

    The archive is replaced when all is done, and else left as it is. Its format stays the same. A model that needs no
    conversion, or that paddle2onnx refuses, stays as it is, unless there is something to measure.

    Raises PackingError for an archive without a model of Paddle's, and when paddle2onnx is missing; what
    `archive.unpack` raises.
    """
    info = archive.inspect(path, limits)
    manifest = _without_engines(info.manifest)
    model, signature = _model(path, manifest)
    with tempfile.TemporaryDirectory(prefix="pd-model-archiver-") as scratch:
        folder = Path(scratch, "archive")
        archive.unpack(path, folder, limits)
        made, reason = _made(folder, model, signature, manifest, seconds)
        if made is not None:
            manifest = replace(manifest, engines=(made,))
        if measure is not None:
            manifest = replace(manifest, measured=measure(folder, manifest))
        if manifest != info.manifest:
            _write(path, info, folder, manifest, limits)
    return Optimized(path, manifest, made, reason)


def _model(path: Path, manifest: Manifest) -> tuple[str, Signature]:
    """The model's file, and its signature. Raises PackingError for an archive that can't be optimized."""
    model, signature = manifest.serialized_file, manifest.signature
    if manifest.pipeline is not None:
        problem = "it holds a pipeline; optimize the models that are packed into it"
    elif model is None or signature is None:
        problem = "it holds no model with a signature: pack the model with pd-model-archiver and --serialized-file"
    elif encryption.is_encrypted(model):
        problem = "its model is encrypted, and stays so; optimize the one it was made from, and encrypt that"
    elif not manifest.has_checksums or manifest.model_name is None:
        problem = "it was packed by another tool; pack the model with pd-model-archiver"
    else:
        return model, signature
    raise PackingError(f"{path}: {problem}")


def _without_engines(manifest: Manifest) -> Manifest:
    earlier = {engine.file for engine in manifest.engines}
    files = {path: digest for path, digest in manifest.files.items() if path not in earlier}
    return replace(manifest, files=files, engines=(), measured=None)


def _made(
    folder: Path, name: str, signature: Signature, manifest: Manifest, seconds: float
) -> tuple[EngineFile | None, str]:
    """What was made of the model `name` in `folder`, or why nothing was."""
    model = folder / name
    params = folder / manifest.params_file if manifest.params_file else None
    if model.suffix == onnx_model.SUFFIX:
        return None, f"{model.name} is what ONNX Runtime and OpenVINO read"
    if model.suffix != ".json":
        return None, f"OpenVINO reads {model.name} as it is"
    if FILE in manifest.files:
        raise PackingError(f"{FILE} is a file of the model's own; pack it under another name")
    target = folder / FILE
    target.unlink(missing_ok=True)
    try:
        to_onnx.convert(model, params, target, seconds)
        found = onnx_model.read(target).signature
        inputs = _same(signature.inputs, found.inputs, "input")
        outputs = _same(signature.outputs, found.outputs, "output")
    except (NotConverted, InvalidModel) as error:
        return None, f"paddle2onnx does not convert {model.name}: {error}"
    return EngineFile(FILE, to_onnx.versions(), inputs, outputs), ""


def _same(wanted: tuple[TensorSpec, ...], found: tuple[TensorSpec, ...], side: str) -> tuple[str, ...]:
    """The names in the ONNX model, in the signature's order. Raises NotConverted where they are others."""
    by_name = {spec.name: spec for spec in found}
    for spec in wanted:
        other = by_name.get(spec.source)
        if other is None or (other.dtype, len(other.shape)) != (spec.dtype, len(spec.shape)):
            raise NotConverted(f"the {side} {spec.source!r} is {other or 'missing'} in what it made")
    if len(found) != len(wanted):
        raise NotConverted(f"what it made has {len(found)} {side}s, and the model {len(wanted)}")
    return tuple(spec.source for spec in wanted)


def _write(path: Path, info: ArchiveInfo, folder: Path, manifest: Manifest, limits: Limits) -> None:
    contents = Contents(limits)
    for name in (*manifest.files, *(engine.file for engine in manifest.engines)):
        contents.add(name, folder / name)
    if info.format == "folder":
        with staged_folder(path, replace=True) as stage:
            writing.write_folder(stage, contents.sources, manifest)
        return
    with staged_file(path) as file:
        if info.format == "zip":
            stored = all(entry.packed_bytes == entry.size_bytes for entry in info.entries)
            writing.write_zip(file, contents.sources, manifest, limits, store_only=stored)
        else:
            writing.write_tar(file, contents.sources, manifest, limits, manifest.model_name or "")
