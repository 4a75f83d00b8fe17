"""Which versions a pipeline asks. Each node that has a copy of the pipeline has copies of these, too. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from pdserver.cluster.base import Need, Wanted
from pdserver.cluster.state import State
from pdserver.engine.pipeline.signatures import NodeMissing
from pdserver.errors import Conflict, InvalidRequest, ModelNotFound, VersionNotFound
from pdserver.formats.values import listed
from pdserver.types import ModelRef

T = TypeVar("T")
Needs = Mapping[ModelRef, Sequence[ModelRef]]
"""Version → what it asks, and what that asks in turn. Versions that ask nothing are not in it."""


def needs(state: State) -> Needs:
    """Of all that is wanted, and of all other copies that there are."""
    models = [*state.wanted, *(one.wanted for one in (*state.extras, *state.instead))]
    asking = [one for one in models if one.needs]
    if not asking:
        return {}
    there = {one.ref for one in state.wanted}
    defaults = {one.ref.name: one.ref for one in state.wanted if one.default}
    direct: dict[ModelRef, dict[ModelRef, None]] = {}
    for one in asking:
        found = (_ref(need, defaults) for need in one.needs)
        direct.setdefault(one.ref, {}).update(dict.fromkeys(ref for ref in found if ref in there))
    return {ref: tuple(each for each in _reached(ref, direct) if each != ref) for ref in direct}


def _ref(need: Need, defaults: Mapping[str, ModelRef]) -> ModelRef | None:
    return defaults.get(need.name) if need.version is None else ModelRef(need.name, need.version)


def _reached(start: T, direct: Mapping[T, Iterable[T]]) -> tuple[T, ...]:
    """What is asked because of it."""
    found: dict[T, None] = {}
    due = [start]
    while due:
        new = [each for each in direct.get(due.pop(), ()) if each not in found]
        found.update(dict.fromkeys(new))
        due += new
    return tuple(found)


def users(found: Needs, ref: ModelRef) -> list[ModelRef]:
    """The versions that ask this one."""
    return [user for user, asked in found.items() if ref in asked]


def check(state: State, wanted: Wanted) -> None:
    """Raises NodeMissing when a model that it asks is not registered, InvalidRequest when it would ask itself."""
    for need in wanted.needs:
        try:
            state.resolve(need.name, need.version)
        except (ModelNotFound, VersionNotFound) as error:
            raise NodeMissing(
                f"{wanted.url}: it asks a model of the store: {error}: register that model first, or pack it inside"
                " (archive)"
            ) from None
    names: defaultdict[str, set[str]] = defaultdict(set)
    for one in (*state.wanted, wanted):
        names[one.ref.name] |= {need.name for need in one.needs}
    if wanted.ref.name in (asked := _reached(wanted.ref.name, names)):
        raise InvalidRequest(f"{wanted.url}: it asks {listed(asked)}: a pipeline can't ask itself, in whatever version")


def check_may_go(state: State, ref: ModelRef) -> None:
    """Raises Conflict for a version that a pipeline asks."""
    if asking := users(needs(State(state.wanted)), ref):
        raise Conflict(f"{ref} is asked by {listed(map(str, asking))}: unregister that first")
