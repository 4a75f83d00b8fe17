"""An encrypted model in the clear, in memory files: nothing of it is written to a disk.

Paddle reads models by path and tells their form by the suffix, so links with the right names lead to the memory files.
Its own way to models in memory (`Config.set_model_buffer`) crashes on PIR.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from pdarchiver import encryption, parameters, signature
from pdarchiver.errors import InvalidModel, PackingError
from pdarchiver.manifest import Signature
from pdarchiver.signature import Program
from pdserver.errors import ArchiveUnusable, LoadFailed
from pdserver.memory_file import MemoryFile

_CHECK_THE_KEY = "check that model_key_file, or modelKeyFile of this model, names the key that it was encrypted with"


class Decrypted:
    """`model`, `params` and `signature` are what a predictor takes, until `close`."""

    def __init__(self, model_file: Path, params_file: Path | None, declared: Signature, key: bytes) -> None:
        """`declared` has the public names. Lengths that are not fixed may be missing there.

        Raises ArchiveUnusable for a missing file, LoadFailed for a key that does not fit.
        """
        if not key:
            raise LoadFailed(f"{model_file.name}: the model is encrypted; {_CHECK_THE_KEY}")
        self._files: list[MemoryFile] = []
        self._folder = Path(tempfile.mkdtemp(prefix="pdserver-"))
        try:
            self.model = self._open(model_file, key, {True: ".json", False: ".pdmodel"})
            program = self._program(model_file.name)
            self.params = (
                self._open(params_file, key, dict.fromkeys((True, False), ".pdiparams")) if params_file else None
            )
            self._check_params(program)
            self.signature = _named(program.signature, declared, model_file.name)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Idempotent."""
        for file in self._files:
            file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _open(self, path: Path, key: bytes, suffixes: dict[bool, str]) -> Path:
        """A link to the file in the clear. Its suffix depends on whether the content is JSON."""
        try:
            with path.open("rb") as source:
                file = MemoryFile(encryption.decrypted(source, key))
        except FileNotFoundError:
            raise ArchiveUnusable(f"{path.name}: no such file in the archive") from None
        except (ValueError, PackingError) as error:
            raise LoadFailed(f"{path.name}: {error}") from None
        self._files.append(file)
        link = self._folder / f"{path.name}{suffixes[os.pread(file.fd, 1, 0) == b'{']}"
        link.symlink_to(f"/proc/self/fd/{file.fd}")
        return link

    def _program(self, name: str) -> Program:
        try:
            return signature.read(self.model)
        except InvalidModel as error:
            raise self._wrong(name, self.model, error) from None

    def _check_params(self, program: Program) -> None:
        if self.params is None:
            return
        try:
            parameters.check(self.params, program)
        except InvalidModel as error:
            raise self._wrong(self.params.stem, self.params, error) from None

    def _wrong(self, name: str, link: Path, error: InvalidModel) -> LoadFailed:
        reason = str(error).removeprefix(f"{link}: ")
        return LoadFailed(f"{name}: decrypted with this key, it is {reason}; {_CHECK_THE_KEY}")


def _named(found: Signature, declared: Signature, where: str) -> Signature:
    inputs, outputs = ({spec.source: spec.name for spec in side} for side in (declared.inputs, declared.outputs))
    try:
        return signature.rename(found, inputs, outputs, where)
    except PackingError as error:
        raise ArchiveUnusable(str(error)) from None
