"""The models to serve from the start, and the parsers of the keys that name them."""

from __future__ import annotations

from dataclasses import dataclass, field

from pdarchiver.manifest import check_name
from pdserver.configuration.model import PartialSettings
from pdserver.formats.values import shown, takes


@dataclass(frozen=True)
class ModelToLoad:
    """An archive to serve: `archive.pdar` or `name=archive.pdar`, or an entry of a snapshot, which says more."""

    url: str
    name: str | None = None
    """None: the manifest's."""
    version: str | None = None
    """The one that the archive must have; None: whichever it has."""
    handler: str | None = None
    """None: the archive's own."""
    settings: PartialSettings = field(default_factory=dict)
    sha256: str | None = None
    """What the archive's bytes must have, in lower case; None: whatever they have."""
    default: bool = False
    """Whether it is to be its model's default version; when none is, the first to be registered is."""


@dataclass(frozen=True)
class ModelsToLoad:
    """What to serve from the start: the named archives, or `all` that the store holds."""

    named: tuple[ModelToLoad, ...] = ()
    all: bool = False


@takes("MODEL")
def model_names(text: str) -> tuple[str, ...]:
    """Separated by commas; `*` stands alone."""
    names = tuple(dict.fromkeys(item.strip() for item in text.split(",") if item.strip()))
    if "*" in names:
        if len(names) > 1:
            raise ValueError("`*` stands alone: drop it, or the names beside it")
        return names
    return tuple(check_name(name) for name in names)


@takes("ARCHIVE")
def models_to_load(text: str) -> ModelsToLoad:
    items = [item.strip() for item in text.split(",") if item.strip()]
    if any(item.lower() == "all" for item in items):
        if len(items) > 1:
            raise ValueError("`all` stands alone: drop it, or the archives beside it")
        return ModelsToLoad(all=True)
    named = []
    for item in items:
        name, equals, url = (part.strip() for part in item.rpartition("="))
        if not url or (equals and not name):
            raise ValueError(f"expected archive.pdar or name=archive.pdar, not {shown(item)}")
        named.append(ModelToLoad(url, name or None))
    return ModelsToLoad(tuple(named))
