"""Checks a model that came over the network: only operations that compute, and no code."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

from pdarchiver import encryption, onnx_model, operations
from pdarchiver.errors import UnsafeModel
from pdserver.errors import Forbidden
from pdserver.formats.values import shown

_ADVICE = "set allow_unsafe_models=true if you trust whoever sends models, or let the operator put it in place"
_CODE = (".py", ".pdar")
"""An archive may bring a handler."""


def check_files(files: Mapping[str, bytes | memoryview]) -> None:
    """Check files that a call brought along, by name. Raises Forbidden."""
    for name in files:
        if name.endswith(_CODE):
            raise Forbidden(f"file {shown(name)}: Python code is not accepted from the network: {_ADVICE}")
    _check((name, io.BytesIO(content)) for name, content in files.items())


def check_folder(folder: Path) -> None:
    """Check the models in an unpacked archive. Its code is allowed, because the operator has allowed its URL. Raises
    Forbidden."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            _check([(path.relative_to(folder).as_posix(), file)])


def _check(files: Iterable[tuple[str, BinaryIO]]) -> None:
    for name, file in files:
        try:
            if encryption.is_encrypted(name):
                raise UnsafeModel("it is encrypted and can't be looked through")
            # No engine takes a file of this name for one of Paddle's models.
            (onnx_model if name.endswith(onnx_model.SUFFIX) else operations).check(file)
        except UnsafeModel as error:
            raise Forbidden(
                f"file {shown(name)}: {error}, and models from the network may do no more than compute: {_ADVICE}"
            ) from None
