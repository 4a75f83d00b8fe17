"""Which models are registered, in which versions, and which of these is the default."""

from __future__ import annotations

from collections.abc import Callable

from pdserver.engine.catalogue import Catalogue, ServedModel
from pdserver.engine.names import Model, Names
from pdserver.engine.served import Served
from pdserver.errors import Conflict, Forbidden


class Registry(Names[Served]):
    """Owned by the engine. `on_change` is called after each change."""

    def __init__(self, catalogue: Catalogue, on_change: Callable[[], None]) -> None:
        super().__init__(catalogue.elsewhere)
        self._catalogue = catalogue
        self._on_change = on_change

    def model(self, name: str, asker: str = "") -> Model[Served]:
        if name not in self._models:
            self._catalogue.model(name, asker)  # it knows more of what is missing
        return super().model(name, asker)

    def show(self, name: str) -> None:
        """Have the catalogue show a model as it is now, and the pipelines that ask it. Whoever is served calls it when
        something of it changes."""
        shown: set[str] = set()
        names = [name]
        for each in names:  # it grows meanwhile
            if each not in shown:
                shown.add(each)
                self._show(each)
                names += [model.name for model in self if any(each in own.uses for own in model.versions.values())]

    def _show(self, name: str) -> None:
        model = self._models.get(name)
        if model is None:
            self._catalogue.put(name, None)
        else:
            views = {version: served.view() for version, served in model.versions.items()}
            self._catalogue.put(name, ServedModel(name, views, model.default_version))

    def add(self, served: Served) -> None:
        """The first version of a name becomes its default. Raises Conflict when the version is registered already."""
        name, version = served.spec.name, served.spec.version
        model = self._models.get(name)
        if model is None:
            self._models[name] = Model(name, {version: served}, version)
        elif version in model.versions:
            raise Conflict(f"Model version {version} is already registered for model {name}")
        else:
            model.versions[version] = served
        self._changed(name)

    def put(self, served: Served) -> Served | None:
        """Register a version in place of the same one. Returns the one before, or None when there is none any more."""
        name, version = served.spec.name, served.spec.version
        if not self.has(served.spec.ref):
            self.add(served)
            return None
        model = self._models[name]
        replaced, model.versions[version] = model.versions[version], served
        model.set_default(model.default_version)
        self._changed(name)
        return replaced

    def remove(self, name: str, version: str | None) -> Served:
        """Raises ModelNotFound, VersionNotFound, and Forbidden for the default version while there are others."""
        model = self.model(name)
        served = self.resolve(name, version)
        if served is model.default and len(model.versions) > 1:
            raise Forbidden(
                f"Model version {served.spec.version} is the default of model {name}, which has others: "
                "set another default first, or unregister those"
            )
        self._take_out(model, served)
        return served

    def drop(self, served: Served) -> bool:
        """Take out a version that could not be loaded. If it is the default, the first of the others becomes it.
        Returns whether it was still there."""
        model = self._models.get(served.spec.name)
        if model is None or model.versions.get(served.spec.version) is not served:
            return False
        self._take_out(model, served)
        return True

    def _take_out(self, model: Model[Served], served: Served) -> None:
        del model.versions[served.spec.version]
        if not model.versions:
            del self._models[model.name]
        elif served is model.default:
            model.set_default(next(iter(model.versions)))
        self._changed(model.name)

    def set_default(self, name: str, version: str) -> None:
        """Raises ModelNotFound, VersionNotFound."""
        self.resolve(name, version)
        self.model(name).set_default(version)
        self._changed(name)

    def _changed(self, name: str) -> None:
        self.show(name)
        self._on_change()
