"""Converts a Paddle model to the two folders of Paddle Serving, without Paddle.

The server's folder has the model, its weights and `serving_server_conf.prototxt`, the client's folder the same text as
`serving_client_conf.prototxt`. Beside each lies its wire format, `….stream.prototxt`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pdarchiver import encryption, messages, model, serving_text, signature
from pdarchiver.encryption import ENCRYPTED_MODEL, ENCRYPTED_PARAMS
from pdarchiver.errors import PackingError
from pdarchiver.manifest import Signature, TensorSpec
from pdarchiver.onnx_model import SUFFIX
from pdarchiver.serving_text import CLIENT_CONF, SERVER_CONF
from pdarchiver.signature import Program
from pdarchiver.staging import staged_folder

_MODEL_ENDINGS, _PARAMS_ENDINGS = ("__model__", ".pdmodel", "model"), ("__params__", ".pdiparams", "params")
"""By which Paddle Serving finds the files in its folder."""


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """What to convert. The fields are the flags of Paddle Serving's converter; paths are relative to the working
    directory."""

    dirname: Path
    """A folder with a model, or what else `pd-model-archiver --serialized-file` takes."""
    serving_server: Path = Path("serving_server")
    serving_client: Path = Path("serving_client")
    model_filename: str | None = None
    """The model's file in `dirname`. None: the only one there."""
    params_filename: str | None = None
    """The weights' file in `dirname`. None: what lies beside the model, one file or one for each parameter."""
    feed_alias_names: Sequence[str] | None = None
    """Public names, one for each input, in the model's order."""
    fetch_alias_names: Sequence[str] | None = None
    """Public names, one for each output, in the order of the outputs' own names, sorted."""
    key_file: Path | None = None
    """Encrypt the model, and write its new key there."""
    force: bool = False
    """Replace folders that an earlier run wrote."""


def show(options: ConvertOptions) -> tuple[Signature, str]:
    """What `convert` would return, and the text of the .prototxt files. Writes nothing. Raises as `convert` does."""
    with _read(options) as (_, program):
        return program.signature, messages.encode_text(serving_text.describe(program.signature, program.lod))


def convert(options: ConvertOptions) -> Signature:
    """Write both folders, and return the model's inputs and outputs in its own order.

    Each folder appears whole or not at all. Raises PackingError or InvalidModel, which say what to change, and OSError
    if the disk is full or not writable.
    """
    with _read(options) as (files, program), ExitStack() as stack:
        _check_places(options, files)
        conf = serving_text.describe(program.signature, program.lod)
        key = stack.enter_context(encryption.new_key(options.key_file)) if options.key_file else None
        server, client = (
            stack.enter_context(_staged(folder, force=options.force))
            for folder in (options.serving_server, options.serving_client)
        )
        for source, name in _names(options, files, encrypted=key is not None).items():
            if key is None:
                shutil.copyfile(source, server / name)
            else:
                with source.open("rb") as plain, (server / name).open("wb") as hidden:
                    encryption.encrypt(plain, hidden, key)
        serving_text.write(conf, server / SERVER_CONF)
        serving_text.write(conf, client / CLIENT_CONF)
    return program.signature


@contextmanager
def _read(options: ConvertOptions) -> Iterator[tuple[model.ModelFiles, Program]]:
    """The model's files, the weights in one, and what they say of the model, with its public names."""
    named = options.dirname / options.model_filename if options.model_filename else options.dirname
    weights = options.dirname / options.params_filename if options.params_filename else None
    with tempfile.TemporaryDirectory(prefix="pd-model-archiver-") as scratch:
        files = model.with_one_weights_file(model.find(named, weights, "--dirname "), Path(scratch))
        if files.declared is not None:
            raise PackingError(f"--dirname {options.dirname}: the model is encrypted; name the one it was made from")
        if files.model.suffix == SUFFIX:
            raise PackingError(
                f"{files.model}: Paddle Serving has no ONNX models; for pdserver, pack it (--serialized-file)"
            )
        program = model.read_program(files, "; name the weights with --params_filename")
        given = program.signature
        inputs = _aliases("feed", given.inputs, options.feed_alias_names)
        outputs = _aliases("fetch", sorted(given.outputs, key=lambda spec: spec.source), options.fetch_alias_names)
        yield files, replace(program, signature=signature.rename(given, inputs, outputs, "alias names"))


def _aliases(side: str, specs: Sequence[TensorSpec], aliases: Sequence[str] | None) -> Mapping[str, str]:
    if aliases is None:
        return {}
    if len(aliases) != len(specs) or not all(aliases):
        raise PackingError(
            f"--{side}_alias_names {','.join(aliases)}: expected {len(specs)} names, separated by commas: one for each "
            f"of {', '.join(spec.source for spec in specs)}"
        )
    return dict(zip((spec.source for spec in specs), aliases, strict=True))


def _names(options: ConvertOptions, files: model.ModelFiles, *, encrypted: bool) -> dict[Path, str]:
    """The files of the server's folder, and what they are called there: as they were named, if a server finds that."""
    with files.model.open("rb") as file:
        is_json = file.read(1) == b"{"
    endings = (".json",) if is_json else _MODEL_ENDINGS
    names = {files.model: _kept(options.model_filename, endings) or f"model{'.json' if is_json else '.pdmodel'}"}
    if files.params is not None:
        names[files.params] = _kept(options.params_filename, _PARAMS_ENDINGS) or "params.pdiparams"
    return dict(zip(names, (ENCRYPTED_MODEL, ENCRYPTED_PARAMS), strict=False)) if encrypted else names


def _kept(named: str | None, endings: tuple[str, ...]) -> str:
    name = Path(named).name if named else ""
    return name if name.endswith(endings) else ""


@contextmanager
def _staged(folder: Path, *, force: bool) -> Iterator[Path]:
    place = folder.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    with staged_folder(place, replace=force) as stage:
        yield stage


def _check_places(options: ConvertOptions, files: model.ModelFiles) -> None:
    """Raises PackingError unless both folders can be written without harm to other files."""
    server, client = options.serving_server.resolve(), options.serving_client.resolve()
    for flag, place, conf in (("--serving_server", server, SERVER_CONF), ("--serving_client", client, CLIENT_CONF)):
        if place.exists() and not options.force:
            raise PackingError(f"{flag} {place}: exists already; replace it with --force, or name another folder")
        # --force is for what this command wrote, not for any folder that happens to have the name.
        if place.exists() and not (place / conf).is_file():
            raise PackingError(f"{flag} {place}: exists and has no {conf}; remove it yourself, or name another folder")
        for path in (files.model, files.params, options.key_file):
            if path is not None and path.resolve().is_relative_to(place):
                raise PackingError(f"{flag} {place}: {path} would be in it; name another folder")
    if server.is_relative_to(client) or client.is_relative_to(server):
        raise PackingError(f"--serving_client {client}: not apart from --serving_server {server}; name another folder")
