"""What a call that loads a model may bring along: the model's configuration and its files.

Source: Triton's model repository extension. `config` is a configuration as JSON text, which replaces the folder's.
`file:<version>/<name>` is a file's content; the folder is ignored then.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from pdarchiver.manifest import check_name
from pdarchiver.names import path_problem
from pdserver.dialects.oip.repository import FILE, LoadParameters
from pdserver.errors import InvalidRequest, LoadFailed
from pdserver.formats.values import shown
from pdserver.store.archives import Store
from pdserver.system.folders import make_folder
from pdserver.triton.model_config import from_json
from pdserver.triton.model_folder import POLL_FAILED, ModelFolder, read
from pdserver.types import Parameter

_MAX_FILES = 1000
_MAX_CONFIG_CHARACTERS = 1024 * 1024
_MAX_BYTES = 4 * 1024 * 1024 * 1024


class Overrides(msgspec.Struct, frozen=True):
    config: Any = None
    """A ModelConfig, or None for that of the folder."""
    files: dict[str, bytes | memoryview] = {}
    """Files by their path in the model's folder. Empty for those of the folder."""


def parse(name: str, parameters: LoadParameters) -> Overrides:
    """Read the parameters of a call. Raises InvalidRequest for an unknown parameter, or for files of a model that can't
    have this name; ConfigError for an invalid configuration."""
    config: Any = None
    files: dict[str, bytes | memoryview] = {}
    for key, value in parameters.items():
        if key == "config":
            if not isinstance(value, str):
                raise InvalidRequest("load parameter 'config': expected text, the JSON of a model configuration")
            if len(value) > _MAX_CONFIG_CHARACTERS:
                raise InvalidRequest(
                    f"load parameter 'config' has {len(value):,} characters: at most {_MAX_CONFIG_CHARACTERS:,}"
                )
            config = from_json(value, f"load parameter 'config' of {shown(name)}")
        elif key.startswith(FILE):
            files[key.removeprefix(FILE)] = _content(key, value)
        else:
            raise InvalidRequest(
                f"unrecognized load parameter {shown(key)!r}: expected 'config' or 'file:<version>/<name>'"
            )
    if files:
        try:
            check_name(name)
        except ValueError as error:
            raise InvalidRequest(str(error)) from None
    if files and config is None:
        raise InvalidRequest("load parameter 'config' must be given with 'file:': the folder's own is not looked at")
    if len(files) > _MAX_FILES or sum(map(len, files.values())) > _MAX_BYTES:
        raise InvalidRequest(f"load parameters 'file:': at most {_MAX_FILES} files, of {_MAX_BYTES} bytes together")
    return Overrides(config, files)


def write(name: str, overrides: Overrides, private: Path, store: Store | None = None) -> ModelFolder:
    """Write the model to a new folder below `private`. `store` opens archives. Raises LoadFailed."""
    for path in overrides.files:
        if problem := path_problem(path):
            raise LoadFailed(f"{POLL_FAILED}: file {shown(path)} {problem}")
    try:
        make_folder(private, 0o700)
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=private))
    except OSError as error:
        raise LoadFailed(f"{POLL_FAILED}: its files cannot be written: {error.strerror}") from None
    try:
        for path, content in overrides.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        return read(folder, name, overrides.config, private=True, store=store)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise LoadFailed(f"{POLL_FAILED}: its files cannot be written: {error.strerror}") from None
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def discard(folder: ModelFolder) -> None:
    """Remove what `write` made. An operator's folder stays."""
    if folder.private:
        shutil.rmtree(folder.path, ignore_errors=True)


def _content(key: str, value: Parameter | bytes | memoryview) -> bytes | memoryview:
    if isinstance(value, bytes | memoryview):
        return value
    raise InvalidRequest(f"load parameter {shown(key)!r}: expected the file's content")
