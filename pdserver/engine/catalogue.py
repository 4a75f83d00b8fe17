"""What is served, as values: all that dialects see of the engine, beside the calls that they submit.

The engine writes the catalogue, and everybody else reads it. A model is written anew whenever something of it changes,
so what a reader holds stays as it was. Nothing in it belongs to this process: another one could keep a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from pdserver.configuration.model import ModelSpec
from pdserver.engine.lifecycle import VersionState
from pdserver.engine.names import Elsewhere, Model, Names
from pdserver.engine.queue import Call
from pdserver.errors import InvalidRequest, Missing, ModelNotFound, Unavailable
from pdserver.memory_file import MemoryFile
from pdserver.metrics.counters import Totals
from pdserver.types import Interface, ModelRef, Outcome, Request, engine_names


class ServedVersion(msgspec.Struct, frozen=True):
    """One version of a model, as it is at one moment."""

    spec: ModelSpec
    interface: Interface | None
    """What typed requests can say to the model; None until a worker has loaded it."""
    state: VersionState
    serving: int
    """How many workers serve."""
    min_workers: int
    """How many are wanted."""
    max_workers: int | None
    """How many may be wanted; None: any number."""
    last_error: str
    """Why the last worker that failed did; "" when none has."""
    contract: str = ""
    """Of a pipeline: whose requests and answers over HTTP it has, such as "paddlex/ocr"."""
    unavailable: str = ""
    """Why no request is taken now; "" while they are."""

    @property
    def engine(self) -> str:
        """What runs its models; empty: nothing does yet, or it is the handler's own affair."""
        return ", ".join(engine_names(self.interface.engines)) if self.interface is not None else ""

    @property
    def is_ready(self) -> bool:
        """Whether it can be asked."""
        return self.serving > 0


ServedModel = Model[ServedVersion]
"""A name, its versions, and which of them is the default."""


def interface_of(served: ServedVersion) -> Interface:
    """What the model takes and gives. Raises Unavailable until a worker has loaded it."""
    if served.interface is None:
        ref = served.spec.ref
        reason = f": {served.last_error}" if served.last_error else ""
        said = f"'{ref.name}' version {ref.version} has not been loaded{reason}"
        raise Unavailable(said, Missing(ref.name, ref.version))
    return served.interface


class Health(msgspec.Struct, frozen=True):
    """Whether everything that should be served is; `problems` maps a model to what keeps it from that."""

    problems: dict[str, str]

    @property
    def healthy(self) -> bool:
        return not self.problems


class Catalogue(Names[ServedVersion]):
    """The models by name. `tests/catalogue` is something else: a catalogue of faults."""

    def __init__(self) -> None:
        super().__init__(Elsewhere())
        self.starting = True
        """Not all that is wanted from the start is loaded."""
        self.stopping = False
        self.only: ServedModel | None = None
        """The one model; None if there are several, or none."""
        self.missing: dict[str, str] = {}
        """What is wanted and could not be registered → why."""
        self.leaving: dict[ModelRef, ServedVersion] = {}
        """Versions that are unregistered and still answer what they have taken. For the engine alone to change."""
        self.on_change: Callable[[], None] = lambda: None
        """Called after each change. Whoever changes one of the attributes above calls it."""

    def answering(self, ref: ModelRef) -> ServedVersion:
        """The version that answers a request, served or leaving. Raises ModelNotFound or VersionNotFound."""
        return self.leaving.get(ref) or self.resolve(ref.name, ref.version)

    def put(self, name: str, model: ServedModel | None) -> None:
        """Show a model as it is now; None: it is not served any more. For the engine alone."""
        if model is None:
            self._models.pop(name, None)
        else:
            self._models[name] = model
        self.only = next(iter(self._models.values())) if len(self._models) == 1 else None
        self.on_change()

    def model(self, name: str, asker: str = "") -> Model[ServedVersion]:
        try:
            return super().model(name, asker)
        except ModelNotFound as error:
            if not self.missing:
                raise
            said = f"{error}; not all that was wanted is served: GET /ping says why"
            raise ModelNotFound(said, error.missing) from None

    def only_model(self) -> str:
        """The name of the one model that is served. Raises InvalidRequest when there are several, or none."""
        if self.only is None:
            raise InvalidRequest("Parameter model_name is required.")
        return self.only.name

    def health(self) -> Health:
        """Healthy: every version that wants workers has one that serves, nothing failed to load at the start, which is
        over, and the server is not to stop."""
        if self.stopping:
            return Health({"server": "it is stopping"})
        problems = {"server": "it is starting: not all that it is to serve is loaded"} if self.starting else {}
        problems |= self.missing
        for served in self.versions():
            if served.min_workers and not served.is_ready:
                reason = served.last_error or f"no worker is ready, it is {served.state.value}"
                problems[str(served.spec.ref)] = reason
        return Health(problems)


class InferenceEngine(Protocol):
    """The engine, as far as dialects know it."""

    @property
    def catalogue(self) -> Catalogue: ...

    def submit(self, call: Call) -> None:
        """Have a request answered; the outcome comes by `call.settle`. Raises PdError when it is refused."""

    async def ask(self, request: Request, kept: Sequence[MemoryFile] = ()) -> Outcome:
        """`submit`, and wait for the outcome. `kept` are the request's files."""

    def statistics(self, ref: ModelRef) -> Totals:
        """What a version has done since it was loaded. Raises ModelNotFound or VersionNotFound."""
