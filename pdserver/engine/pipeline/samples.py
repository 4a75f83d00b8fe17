"""A pipeline's own samples as requests, for its warm-up and to measure it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pdserver.configuration.model import ModelSpec
from pdserver.errors import Kind, LoadFailed
from pdserver.pipeline.values import BINARY, JSON, TEXT
from pdserver.types import Part, Request

_CONTENT_TYPES = {".json": JSON, ".txt": TEXT}
_MAX_BYTES = 64 * 1024 * 1024


def requests_of(spec: ModelSpec, samples: Sequence[Mapping[str, str]]) -> list[Request]:
    """Blocks. Raises LoadFailed for a file that can't be read."""
    found = []
    for index, sample in enumerate(samples):
        place = f"samples[{index}]"
        parts = [_part(spec, f"{place}.{name}", name, file) for name, file in sample.items()]
        found.append(Request(spec.name, spec.version, place, [*parts]))
    return found


def _part(spec: ModelSpec, place: str, name: str, file: str) -> Part:
    """Of a file that was in the pipeline's folder when that was opened."""
    path = Path(spec.directory, file)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise LoadFailed(f"{place}: {file}: more than {_MAX_BYTES} bytes long", Kind.INVALID)
        return Part(name, _CONTENT_TYPES.get(path.suffix.lower(), BINARY), path.read_bytes())
    except OSError as error:
        raise LoadFailed(f"{place}: {file}: cannot be read: {error.strerror}", Kind.INVALID) from None
