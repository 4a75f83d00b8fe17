"""Changes that go from node to node, so that somebody serves at every moment."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import msgspec

from pdserver.cluster.base import NodeLost, Wanted
from pdserver.cluster.needs import Needs, needs, users
from pdserver.cluster.placement import place
from pdserver.cluster.reconciler import GRACE_SECONDS, Reconciler
from pdserver.cluster.state import Extra, State
from pdserver.errors import LoadFailed, PdError, Unavailable
from pdserver.types import ModelRef

_LOOK_SECONDS = 0.1
_BACK_SECONDS = 600.0
"""For it to load all that it served before."""
_SILENT_SECONDS = 60.0
"""A node that has just restarted may be silent for so long: many processes begin at once."""


async def replace(core: Reconciler, new: Wanted) -> None:
    """Have another archive served as the same version, one node after the other. If a node can't, all have the one
    before again. Raises LoadFailed, Unavailable."""
    ref = new.ref
    old = core.state.find(ref)
    if old is None:
        raise Unavailable(f"{ref} is not served any more")
    try:
        async with brought(core, needs(State(core.state.with_changed(new).wanted))):
            while node := _next(core, new):
                await _switch(core, node, new)
            await core.commit(lambda state: state.with_changed(new), ref)
    except PdError:
        await take_back(core, ref)
        raise
    finally:
        core.stock.clear()
    await core.shown()
    await core.until(lambda: not core.is_left_over(ref), _BACK_SECONDS)


async def take_back(core: Reconciler, ref: ModelRef) -> None:
    """Have all nodes serve of a version what is wanted of it, after it was not replaced."""
    for node in [one.node for one in core.state.instead if one.wanted.ref == ref]:
        if old := core.state.find(ref):
            with contextlib.suppress(LoadFailed, Unavailable):
                await _switch(core, node, old)
    core.state = core.state.with_wanted_content(ref)
    core.stock.clear()


def _next(core: Reconciler, new: Wanted) -> str:
    """A node that has the old one; "": none has."""
    old = core.state.find(new.ref)
    nodes = core.state.nodes_of(new.ref) if old else []
    return next((node for node in nodes if old and core.state.content(node, old) != new), "")


async def _switch(core: Reconciler, node: str, wanted: Wanted) -> None:
    """Have one node serve this instead, while it takes no requests for the version and for what asks it."""
    asking = [ref for ref in users(core.needs, wanted.ref) if ref in core.state.placed.get(node, ())]
    refs = [wanted.ref, *asking]
    await _stocked(core, node, wanted)
    try:
        with contextlib.suppress(Unavailable):  # without another place, it serves as long as it can
            await _stand_in(core, node, refs)
        core.held |= {(node, ref) for ref in refs}
        await _let_alone(core, node, refs)
        await core.commit(lambda state: state.with_content(node, wanted), wanted.ref)
        await core.until(lambda: _has_switched(core, node, wanted))
    finally:
        core.held -= {(node, ref) for ref in refs}
        core.summoned.clear()
    await core.shown()


async def _let_alone(core: Reconciler, node: str, refs: list[ModelRef]) -> None:
    """Wait until nobody has sent requests for these versions to the node for some time, unless it alone has them. Those
    that others have lost meanwhile, and will serve again, are waited for."""
    loop = asyncio.get_running_loop()
    routed, since = refs, loop.time()
    while loop.time() - since < GRACE_SECONDS:
        await core.shown()
        now_routed = [ref for ref in refs if core.fleet.is_routed(node, ref)]
        if now_routed != routed or any(_is_awaited(core, node, ref) for ref in now_routed):
            routed, since = now_routed, loop.time()
        await asyncio.sleep(_LOOK_SECONDS)


def _is_awaited(core: Reconciler, node: str, ref: ModelRef) -> bool:
    """Whether nobody else serves it now, and somebody will."""
    return not _others_take(core, node, ref) and _will_be_served(core, ref, node)


def _others_take(core: Reconciler, node: str, ref: ModelRef) -> bool:
    """Whether other nodes than this one serve it now."""
    others = [*core.state.nodes_of(ref), *(extra.node for extra in core.state.extras if extra.wanted.ref == ref)]
    return any(core.facts().takes(other, ref) for other in others if other != node)


async def _stocked(core: Reconciler, node: str, wanted: Wanted) -> None:
    """Have the archive on the node. Raises Unavailable when it can't be."""
    digest = wanted.archive.sha256
    old = core.state.find(wanted.ref)
    core.stock |= {(node, one.archive) for one in (wanted, old) if one}
    member = core.fleet.members.get(node)
    if member is None:
        return
    member.unfetched.pop(digest, None)
    await core.until(lambda: member.has(digest) or member.lost or digest in member.unfetched)
    if digest in member.unfetched:
        raise Unavailable(f"{core.name(node)}: {member.unfetched[digest][0]}")


def _has_switched(core: Reconciler, node: str, wanted: Wanted) -> bool:
    """Also when the node is lost: then its copy is placed anew. Raises LoadFailed."""
    if node not in core.state.nodes_of(wanted.ref):
        return True
    said = core.facts_of(node, wanted)
    if said is not None and said.problem:
        raise LoadFailed(f"{core.name(node)}: {said.problem}")
    return core.is_up(node, wanted)


async def _stand_in(core: Reconciler, node: str, refs: list[ModelRef]) -> None:
    """Have other nodes serve those of these versions that this one alone serves. Raises Unavailable when they
    can't."""
    facts = core.facts()
    alone = [ref for ref in refs if facts.takes(node, ref) and not _others_take(core, node, ref)]
    more = [
        msgspec.structs.replace(one, copies=len(core.state.nodes_of(one.ref)) + 1) if one.ref in alone else one
        for one in core.state.wanted
    ]
    found = place(core.places(), more, core.state.placed, core.needs)
    for ref in alone:
        others = [other for other, refs in found.placed.items() if ref in refs and other != node]
        others = [other for other in others if ref not in core.state.placed.get(other, ())]
        if _will_be_served(core, ref, node):
            continue
        if not others:
            raise Unavailable(f"{core.name(node)} alone serves {ref}, and {found.problems.get(ref, 'nobody else can')}")
        for each in (ref, *core.needs.get(ref, ())):
            _summon(core, others[0], each)
    await core.until(lambda: all(_is_stood_in(core, node, ref) for ref in alone))


def _will_be_served(core: Reconciler, ref: ModelRef, node: str) -> bool:
    """Whether other nodes than this one have a placed copy that serves, or that nothing keeps from it."""
    for member in map(core.fleet.members.get, core.state.nodes_of(ref)):
        wanted, facts = core.state.find(ref), core.facts()
        if member is None or member.id == node or not member.is_well or wanted is None:
            continue
        copy = facts.copy(member.id, ref)
        if not (copy and copy.problem) and wanted.archive.sha256 not in member.unfetched:
            return True
    return False


def _summon(core: Reconciler, node: str, ref: ModelRef) -> None:
    """Have a node serve a version for some time, unless it does."""
    wanted = core.state.find(ref)
    if wanted is not None and all(one.ref != ref for one in core.state.copies_on(node)):
        core.state = core.state.with_extra(Extra(node, wanted))
    core.summoned.add((node, ref))


@contextlib.asynccontextmanager
async def brought(core: Reconciler, after: Needs) -> AsyncIterator[None]:
    """Each node that has pipelines also serves what they will ask `after` a change. Raises LoadFailed, Unavailable when
    one can't."""
    found = place(core.places(), core.state.wanted, core.state.placed, after)
    new = {
        (node, ref)
        for user, asked in after.items()
        for node in core.state.nodes_of(user)
        for ref in set(asked) - set(core.state.placed[node])
    }
    for node, ref in new:
        if ref not in found.placed.get(node, ()):
            raise Unavailable(found.problems.get(ref) or f"{core.name(node)} can't serve {ref}")
    try:
        for copy in new:
            _summon(core, *copy)
        core.wake()
        await core.until(lambda: all(_is_brought(core, *copy) for copy in new))
        yield
    finally:
        core.summoned.clear()
        core.wake()


def _is_brought(core: Reconciler, node: str, ref: ModelRef) -> bool:
    """Also when the node is lost: then what it had is placed anew. Raises LoadFailed, Unavailable."""
    wanted, member = core.state.find(ref), core.fleet.members.get(node)
    if wanted is None or member is None or member.lost:
        return True
    said = core.facts_of(node, wanted)
    if said is not None and said.problem:
        raise LoadFailed(f"{core.name(node)}: {said.problem}")
    if unfetched := member.unfetched.get(wanted.archive.sha256):
        raise Unavailable(f"{core.name(node)}: {unfetched[0]}")
    return core.is_up(node, wanted)


def _is_stood_in(core: Reconciler, node: str, ref: ModelRef) -> bool:
    """Raises Unavailable when the other node can't serve it."""
    facts = core.facts()
    extras = [extra for extra in core.state.extras if (extra.node, ref) in core.summoned and extra.wanted.ref == ref]
    for extra in extras:
        member, said = core.fleet.members.get(extra.node), core.facts_of(extra.node, extra.wanted)
        problem = said.problem if said else ""
        if member is None or member.lost:
            problem = "it does not answer any more"
        elif extra.wanted.archive.sha256 in member.unfetched:
            problem = member.unfetched[extra.wanted.archive.sha256][0]
        if problem:
            core.state = core.state.without_extras(frozenset([(extra.node, ref)]))
            raise Unavailable(f"{core.name(extra.node)} can't serve {ref} meanwhile: {problem}")
    others = [other for other in core.state.nodes_of(ref) if other != node]
    if not extras and not _will_be_served(core, ref, node):
        raise Unavailable(f"{core.name(node)} alone serves {ref}, and who was to serve it meanwhile can't")
    return any(facts.takes(other, ref) for other in [*others, *(extra.node for extra in extras)])


async def upgrade(core: Reconciler, tell: Callable[[str], None]) -> None:
    """Restart the pdserver of each node, one after the other, those first that do not serve. Raises Unavailable when
    one does not come back."""
    nodes = sorted(core.fleet.members, key=lambda node: (core.fleet.members[node].is_well, node))
    for number, node in enumerate(nodes, 1):
        where = f"{core.name(node)} ({number} of {len(nodes)})"
        if node not in core.fleet.members:
            tell(f"{where}: it is gone")
            continue
        await _upgrade_node(core, node, lambda words, where=where: tell(f"{where}: {words}"))  # type: ignore[misc]


async def _upgrade_node(core: Reconciler, node: str, tell: Callable[[str], None]) -> None:
    member = core.fleet.members[node]
    served = [ref for ref in core.state.placed.get(node, ()) if core.facts().is_ready(node, ref)]
    before = member.status.version if member.status else ""
    try:
        await _stand_in(core, node, served)
        core.draining.add(node)
        if member.is_live:
            tell("it takes no new requests")
            await _let_alone(core, node, [one.ref for one in core.copies_on(node)])  # also what is ready only later
        tell("it restarts")
        await _restarted(core, node)
        await _is_back(core, node, served)
    finally:
        core.draining.discard(node)
        core.summoned.clear()
        core.wake()
    after = member.status.version if member.status else ""
    tell(f"it serves again, with pdserver {after}" + (f" instead of {before}" if before not in ("", after) else ""))
    await core.shown()
    await core.until(lambda: not core.state.extras, _BACK_SECONDS)


async def _restarted(core: Reconciler, node: str) -> None:
    """Raises Unavailable."""
    member = core.fleet.members[node]
    try:
        await core.fleet.restart(member)
    except (NodeLost, asyncio.TimeoutError):
        raise Unavailable(f"{core.name(node)} did not come back: the rest stay as they are") from None
    except PdError as error:
        raise Unavailable(f"{core.name(node)} did not come back: {error}; the rest stay as they are") from None
    if member.status:
        core.versions.add(member.status.version)


async def _is_back(core: Reconciler, node: str, served: list[ModelRef]) -> None:
    """Wait until it serves what it served before. Raises Unavailable."""
    member = core.fleet.members[node]
    loop = asyncio.get_running_loop()

    def is_back() -> bool:
        if member.lost:
            if node not in core.fleet.members or loop.time() - member.heard > _SILENT_SECONDS:
                raise Unavailable(f"{core.name(node)} did not come back: it does not answer; the rest stay as they are")
            return False
        wanted = [one for one in core.state.wanted if one.ref in served and one.ref in core.state.placed.get(node, ())]
        for one in wanted:
            said = core.facts_of(node, one)
            if said is not None and said.problem:
                raise Unavailable(
                    f"{core.name(node)} does not serve {one.ref} any more: {said.problem}; the rest stay as they are"
                )
        return all(core.is_up(node, one) for one in wanted)

    if not await core.until(is_back, _BACK_SECONDS):
        raise Unavailable(f"{core.name(node)} has not loaded its models in {_BACK_SECONDS:g} s; the rest stay")
