"""A pipeline's own samples as requests, for its warm-up and to measure it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pdserver.configuration.model import ModelSpec
from pdserver.errors import LoadFailed
from pdserver.pipeline.values import BINARY, JSON, TEXT
from pdserver.types import Part, Request

_CONTENT_TYPES = {".json": JSON, ".txt": TEXT}
_MAX_BYTES = 64 * 1024 * 1024


def requests_of(spec: ModelSpec, samples: Sequence[Mapping[str, str]]) -> list[Request]:
    """Blocks. Raises LoadFailed for a file that can't be read."""
    return [
        Request(
            spec.name, spec.version, f"samples[{index}]", [_part(spec, name, file) for name, file in sample.items()]
        )
        for index, sample in enumerate(samples)
    ]


def _part(spec: ModelSpec, name: str, file: str) -> Part:
    path = (Path(spec.directory) / file).resolve()
    try:
        if not path.is_relative_to(Path(spec.directory).resolve()):
            raise LoadFailed(f"samples: {file}: a link that leads out of the pipeline's folder")
        if path.stat().st_size > _MAX_BYTES:
            raise LoadFailed(f"samples: {file}: more than {_MAX_BYTES} bytes long")
        return Part(name, _CONTENT_TYPES.get(path.suffix.lower(), BINARY), path.read_bytes())
    except OSError as error:
        raise LoadFailed(f"samples: {file}: cannot be read: {error.strerror}") from None
