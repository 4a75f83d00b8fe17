"""Names, the versions of each, and which of these is the default. Pure bookkeeping."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from pdserver.errors import Missing, ModelNotFound, VersionNotFound
from pdserver.formats.values import listed, shown
from pdserver.types import ModelRef

T = TypeVar("T")


class Model(Generic[T]):
    """The versions of one name."""

    def __init__(self, name: str, versions: dict[str, T], default_version: str) -> None:
        self.name = name
        self.versions = versions
        self.default_version = default_version
        self.default = versions[default_version]

    def set_default(self, version: str) -> None:
        self.default_version, self.default = version, self.versions[version]


class Elsewhere:
    """What other servers serve, as far as this one passes requests on to them."""

    def __init__(self) -> None:
        self.defaults: Mapping[str, str] = {}
        """Model → its default version among all servers, if another one serves it."""
        self.nodes: Callable[[Missing], Sequence[str]] = lambda _: ()
        """Which other servers serve it."""

    def serves(self, missing: Missing) -> bool:
        """Whether another server serves it."""
        return bool(self.nodes(missing))


class Names(Generic[T]):
    """Models by their names. Iterating gives them in the order of these."""

    def __init__(self, elsewhere: Elsewhere) -> None:
        self._models: dict[str, Model[T]] = {}
        self.elsewhere = elsewhere

    def __iter__(self) -> Iterator[Model[T]]:
        return iter(sorted(self._models.values(), key=lambda model: model.name))

    def versions(self) -> Iterator[T]:
        """All versions of all models."""
        return (version for model in self for version in model.versions.values())

    def knows(self, name: str) -> bool:
        return name in self._models

    def has(self, ref: ModelRef) -> bool:
        model = self._models.get(ref.name)
        return model is not None and ref.version in model.versions

    def model(self, name: str, asker: str = "") -> Model[T]:
        """`asker` is the pipeline that asks for it, which can't be meant itself. Raises ModelNotFound."""
        model = self._models.get(name)
        if model is None:
            others = [other for other in self._models if other != asker]
            near = others if len(others) == 1 else difflib.get_close_matches(name, others, 1)
            said = f"Model not found: {shown(name)}" + (f" (is it {near[0]}?)" if near else "")
            raise ModelNotFound(said, Missing(name))
        return model

    def resolve(self, name: str, version: str | None, asker: str = "") -> T:
        """A version, or the default version when it is None; `asker` as for `model`. Raises ModelNotFound or
        VersionNotFound."""
        model = self._models.get(name)
        if model is None:
            try:
                model = self.model(name, asker)
            except ModelNotFound as error:
                missing = Missing(name, version)
                raise ModelNotFound(f"{error}{self._hint(missing, asker)}", missing) from None
        if version is None:
            return model.default
        found = model.versions.get(version)
        if found is None:
            missing = Missing(name, version)
            said = f"Model version: {shown(version)} does not exist for model: {name}{self._hint(missing, asker)}"
            raise VersionNotFound(said, missing)
        return found

    def _hint(self, missing: Missing, asker: str) -> str:
        """Where the model is, for who can't be answered from there."""
        nodes = self.elsewhere.nodes(missing) if asker else ()
        return f"; it is on {listed(nodes)}, but a pipeline asks models of its own server" if nodes else ""

    def asked(self, name: str, version: str | None) -> T:
        """What a request means: as `resolve`, but None is the default version among all servers."""
        if version is None:
            version = self.elsewhere.defaults.get(name)
        return self.resolve(name, version)
