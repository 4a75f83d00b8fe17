"""Which models are registered, in which versions, and which of these is the default. Pure bookkeeping."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator

from pdserver.engine.pool import Pool
from pdserver.errors import Conflict, Forbidden, ModelNotFound, VersionNotFound
from pdserver.formats.values import shown
from pdserver.types import ModelRef


class Model:
    """The versions of one name."""

    def __init__(self, name: str, pool: Pool) -> None:
        self.name = name
        self.versions: dict[str, Pool] = {pool.spec.version: pool}
        self.default_version = pool.spec.version
        self.default = pool


class Registry:
    def __init__(self) -> None:
        self._models: dict[str, Model] = {}
        self.on_change: Callable[[], None] = lambda: None
        """Called after every change of what is served, or how; who changes a pool's settings calls it, too."""

    def __iter__(self) -> Iterator[Model]:
        """By name."""
        return iter(sorted(self._models.values(), key=lambda model: model.name))

    def pools(self) -> Iterator[Pool]:
        return (pool for model in self for pool in model.versions.values())

    def model(self, name: str) -> Model:
        """Raises ModelNotFound."""
        model = self._models.get(name)
        if model is None:
            near = difflib.get_close_matches(name, self._models, 1)
            raise ModelNotFound(f"Model not found: {shown(name)}" + (f" (is it {near[0]}?)" if near else ""))
        return model

    def resolve(self, name: str, version: str | None) -> Pool:
        """The pool of a version, or of the default version. Raises ModelNotFound or VersionNotFound."""
        model = self._models.get(name) or self.model(name)
        if version is None:
            return model.default
        pool = model.versions.get(version)
        if pool is None:
            raise VersionNotFound(f"Model version: {shown(version)} does not exist for model: {name}")
        return pool

    def add(self, pool: Pool) -> None:
        """The first version of a name becomes its default. Raises Conflict when the version is registered already."""
        name, version = pool.spec.name, pool.spec.version
        model = self._models.get(name)
        if model is None:
            self._models[name] = Model(name, pool)
        elif version in model.versions:
            raise Conflict(f"Model version {version} is already registered for model {name}")
        else:
            model.versions[version] = pool
        self.on_change()

    def has(self, ref: ModelRef) -> bool:
        model = self._models.get(ref.name)
        return model is not None and ref.version in model.versions

    def put(self, pool: Pool) -> Pool | None:
        """Register a version in place of the same one, which is given back; None when there is none any more."""
        name, version = pool.spec.name, pool.spec.version
        if not self.has(pool.spec.ref):
            self.add(pool)
            return None
        model = self._models[name]
        replaced, model.versions[version] = model.versions[version], pool
        if model.default is replaced:
            model.default = pool
        self.on_change()
        return replaced

    def remove(self, name: str, version: str | None) -> Pool:
        """Raises Forbidden for the default version while there are others."""
        model = self.model(name)
        pool = self.resolve(name, version)
        if pool is model.default and len(model.versions) > 1:
            raise Forbidden(
                f"Model version {pool.spec.version} is the default of model {name}, which has others: "
                "set another default first, or unregister those"
            )
        self._take_out(model, pool)
        return pool

    def drop(self, pool: Pool) -> bool:
        """Take out a version that is not to be served after all, the default too: the first of the others is it then.
        Gives whether it was still there."""
        model = self._models.get(pool.spec.name)
        if model is None or model.versions.get(pool.spec.version) is not pool:
            return False
        self._take_out(model, pool)
        return True

    def _take_out(self, model: Model, pool: Pool) -> None:
        del model.versions[pool.spec.version]
        if not model.versions:
            del self._models[model.name]
        elif pool is model.default:
            model.default_version, model.default = next(iter(model.versions.items()))
        self.on_change()

    def set_default(self, name: str, version: str) -> None:
        pool = self.resolve(name, version)
        model = self.model(name)
        model.default, model.default_version = pool, version
        self.on_change()
