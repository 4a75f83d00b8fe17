"""The cluster's parts as actors of Ray. Nothing else imports it.

They are detached and in the namespace "pdserver": `controller` on the head's machine, `node-ID` on each machine, and
`entrance-ID` on some, where ID is Ray's of the machine. Each is a thin shell around what knows nothing of Ray. Other
parts see them as `RayNode`, `RayEntrance` and `RayHolder`, which raise NodeLost for what Ray raises, and can cross
machines.

    connect("HOST:PORT")                        the Ray cluster, "auto" for the one that runs on this machine
    begin(options)                              returns when the controller answers
    answer(controller().view.remote())          as any method of ControllerShell
    end(25)                                     drains and ends all; no actor is left
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import ray
from ray.cluster_utils import Cluster
from ray.exceptions import RayActorError, RayError, RaySystemError, RayTaskError, UnserializableException
from ray.util import list_named_actors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pdserver.cluster.base import (
    Archive,
    ClusterView,
    EntranceStatus,
    EntranceView,
    Holder,
    NodeLost,
    NodeStatus,
    Target,
    Wanted,
)
from pdserver.cluster.entrance import HaproxyEntrance, settings
from pdserver.cluster.entrances import Spot, chosen
from pdserver.cluster.fleet import Entrances
from pdserver.cluster.folders import OwnFolder, log_to
from pdserver.cluster.head import Head, enter
from pdserver.cluster.node import NodeAgent
from pdserver.cluster.node_http import token_of
from pdserver.cluster.options import ClusterOptions
from pdserver.cluster.reasons import reason
from pdserver.configuration.tokens import Scope
from pdserver.errors import ConfigError, Conflict, PdError, Unavailable
from pdserver.system.devices import core_count

NAMESPACE = "pdserver"
_CONTROLLER = "controller"
_HEAD = "node:__internal_head__"
"""The resource by which Ray marks the head's machine."""
_ON_HEAD = {"resources": {_HEAD: 0.001}}
"""Whichever machine that is: it may be another one after the head's has died."""
_PORTS = {
    **{name: name for name in ("inference", "management", "metrics", "grpc_management")},
    "grpc": "grpc_inference",
}
"""Of an entrance, with those of a server for which they stand."""
_STORE_BYTES = 80 * 2**20
"""For the objects of a local machine: Ray takes no less than 75 MiB. Pieces of archives pass through it."""
_CALLS = 1000
"""At a time, of one actor."""
_CONNECT_SECONDS = 3.0
_BACK_SECONDS = 60.0
_POLL_SECONDS = 0.1
_PROGRESS_SECONDS = 0.5
_OPEN_AGAIN_SECONDS = 1.0
_T = TypeVar("_T")
_log = logging.getLogger("pdserver.cluster")


async def _answer(who: str, asked: Awaitable[_T]) -> _T:
    """Raises what the actor's method raised on purpose, and NodeLost when the actor did not answer."""
    try:
        return await asked
    except RayError as error:
        raise _meaning(who, error) from None


def _meaning(who: str, error: RayError) -> PdError:
    """What was raised on purpose, there or when an answer was read; NodeLost when Ray does not reach the actor, and
    else Unavailable, as when the actor can't begin."""
    cause = getattr(error, "cause", None) if isinstance(error, RayTaskError) else error
    if isinstance(cause, RaySystemError):
        cause = cause.client_exc
    if isinstance(cause, PdError):
        return cause
    if isinstance(error, RayActorError) and error.actor_init_failed:
        return Unavailable(f"pdserver does not start there: {reason(str(error))}")
    if isinstance(error, (RayTaskError, UnserializableException)):
        return Unavailable(f"{who}: {reason(str(error))}")
    return NodeLost(f"{who}: Ray does not reach it: {str(error).splitlines()[0]}")


# Nodes


class NodeShell:
    """A `NodeAgent` as an actor."""

    async def __init__(self, node: str, options: ClusterOptions) -> None:  # type: ignore[misc] # Ray awaits it
        self._options = options
        self._own = OwnFolder(options.folder(), "node")
        log_to(self._own.path)
        self._agent = NodeAgent(self._own.path, options.node(node, ray.util.get_node_ip_address()))
        self._started = asyncio.create_task(self._agent.start())

    async def status(self) -> NodeStatus:
        return await self._agent.status()

    async def fetch(self, archive: Archive, holder: Holder) -> None:
        try:
            await self._agent.fetch(archive, holder)
        except NodeLost as error:  # which is another node
            raise Unavailable(str(error)) from None

    async def apply(self, target: Target) -> NodeStatus:
        await self._started
        return await self._agent.apply(target)

    async def piece(self, sha256: str, offset: int) -> bytes:
        return await self._agent.piece(sha256, offset)

    async def keep(self, revision: int, snapshot: bytes) -> None:
        await self._agent.keep(revision, snapshot)

    async def kept(self) -> tuple[int, bytes]:
        return await self._agent.kept()

    async def options(self) -> ClusterOptions:
        return self._options

    async def started(self) -> None:
        """Until its server runs. Raises Unavailable when that does not start."""
        await self._started
        self._agent.check()

    async def end(self) -> None:
        """End the server, after it has answered what it took."""
        self._started.cancel()
        await self._agent.close()
        self._own.close()


class RayHolder:
    """A `Holder` that is an actor."""

    def __init__(self, name: str, actor: Any) -> None:
        self._name = name
        self._actor = actor

    async def piece(self, sha256: str, offset: int) -> bytes:
        return await _answer(self._name, self._actor.piece.remote(sha256, offset))


class RayNode(RayHolder):
    """A `Node` that is an actor."""

    def __init__(self, name: str, make: Callable[..., Any]) -> None:
        """`make` returns the actor, and makes it if it is not there; with `anew`, it raises ValueError if it is."""
        super().__init__(name, make())
        self._make = make

    async def status(self) -> NodeStatus:
        return await _answer(self._name, self._actor.status.remote())

    async def fetch(self, archive: Archive, holder: Holder) -> None:
        await _answer(self._name, self._actor.fetch.remote(archive, holder))

    async def apply(self, target: Target) -> NodeStatus:
        return await _answer(self._name, self._actor.apply.remote(target))

    async def keep(self, revision: int, snapshot: bytes) -> None:
        await _answer(self._name, self._actor.keep.remote(revision, snapshot))

    async def kept(self) -> tuple[int, bytes]:
        return await _answer(self._name, self._actor.kept.remote())

    async def restart(self) -> None:
        """With the agent, since an installation is replaced as a whole; one that can't begin is made anew likewise."""
        with contextlib.suppress(PdError):
            await _answer(self._name, self._actor.end.remote())
        await asyncio.to_thread(ray.kill, self._actor)
        for _ in range(int(_BACK_SECONDS / _POLL_SECONDS)):
            try:
                self._actor = await asyncio.to_thread(self._make, anew=True)
            except ValueError:  # the one before has not gone yet
                await asyncio.sleep(_POLL_SECONDS)
            else:
                return await _answer(self._name, self._actor.started.remote())
        raise Unavailable("Ray has not ended the one before")

    def __reduce__(self) -> tuple[Any, ...]:
        """For other nodes."""
        return RayHolder, (self._name, self._actor)


# Entrances


class EntranceShell:
    """A `HaproxyEntrance` as an actor. One whose ports can't be opened tries again."""

    async def __init__(self, options: ClusterOptions) -> None:  # type: ignore[misc]
        self._options = options
        self._own = OwnFolder(options.folder(), "entrance")
        log_to(self._own.path)
        self._host = ray.util.get_node_ip_address()
        self._life = uuid.uuid4().hex
        self._entrance: HaproxyEntrance | None = None
        self._error: PdError = Unavailable("it has not started")
        self._tried = asyncio.Event()
        self._opening = asyncio.create_task(self._open())

    async def _open(self) -> None:
        while self._entrance is None:
            try:
                entrance = self._made()
                await entrance.open()
                self._entrance = entrance
            except PdError as error:
                if str(error) != str(self._error):
                    _log.error("the entrance can't open: %s", error)
                self._error = error
            self._tried.set()
            await asyncio.sleep(_OPEN_AGAIN_SECONDS)

    def _made(self) -> HaproxyEntrance:
        enter(self._options.directory)
        config = self._options.config()
        wanted = {
            name: config.addresses[f"{key}_address"]
            for name, key in _PORTS.items()
            if f"{key}_address" in config.addresses
        }
        token = token_of(self._options.environment, Scope.INFERENCE)
        return HaproxyEntrance(self._own.path, settings(config, wanted, token=token))

    async def _opened(self) -> HaproxyEntrance:
        """Raises why it can't open."""
        await self._tried.wait()
        if self._entrance is None:
            raise self._error
        return self._entrance

    async def opened(self) -> None:
        """Raises PdError, which names the machine."""
        try:
            await self._opened()
        except PdError as error:
            kind = ConfigError if isinstance(error, ConfigError) else Unavailable
            raise kind(f"the entrance on {self._host}: {error}") from None

    async def show(self, view: EntranceView) -> None:
        await (await self._opened()).show(view)

    async def status(self) -> EntranceStatus:
        if self._entrance is None:
            return EntranceStatus(host=self._host, life=self._life, problem=str(self._error))
        return EntranceStatus(host=self._host, life=self._life, addresses=self._entrance.told(self._host))

    async def end(self, grace_seconds: float) -> None:
        self._opening.cancel()
        if self._entrance is not None:
            await self._entrance.close(grace_seconds)


class RayEntrance:
    """An `Entrance` that is an actor."""

    def __init__(self, name: str, actor: Any) -> None:
        self._name = name
        self._actor = actor

    async def show(self, view: EntranceView) -> None:
        await _answer(self._name, self._actor.show.remote(view))

    async def status(self) -> EntranceStatus:
        return await _answer(self._name, self._actor.status.remote())

    async def opened(self) -> None:
        """Until it takes requests. Raises PdError."""
        await _answer(self._name, self._actor.opened.remote())


# The machines of a Ray cluster


class RayMachines:
    """The `Machines` of a Ray cluster: it makes the actor of a node on each, and those of entrances on some."""

    def __init__(self, options: ClusterOptions) -> None:
        self._options = options
        self._nodes: dict[str, RayNode] = {}
        self._entrances: dict[str, RayEntrance] = {}
        self._refused: set[str] = set()

    async def nodes(self) -> Mapping[str, RayNode]:
        there = await asyncio.to_thread(_machines)
        for node, machine in there.items():
            if node not in self._nodes and self._may_serve(node, machine, there):
                make = partial(_actor, NodeShell, f"node-{node}", _on(node), node, self._options)
                name = f"the node {node[:8]} ({machine['NodeManagerHostname']})"
                self._nodes[node] = await asyncio.to_thread(RayNode, name, make)
        self._nodes = {node: shell for node, shell in self._nodes.items() if node in there}
        return dict(self._nodes)

    def _may_serve(self, node: str, machine: Mapping[str, Any], there: Mapping[str, Mapping[str, Any]]) -> bool:
        """Nodes that listen on loopback reach each other on one machine alone."""
        head = next((other for other in there.values() if _is_head(other)), machine)
        if self._options.listen or machine["NodeManagerAddress"] == head["NodeManagerAddress"]:
            return True
        if node not in self._refused:
            self._refused.add(node)
            _log.error(
                "the machine %s is left out, since the cluster's nodes listen on loopback: start it with --listen node",
                machine["NodeManagerAddress"],
            )
        return False

    async def entrances(self) -> Entrances:
        there, problem = await self.ray_entrances()
        return Entrances(there, problem)

    async def ray_entrances(self) -> tuple[Mapping[str, RayEntrance], str]:
        """Those that another controller has made stay where they are."""
        if self._options.entrances == 0:
            return {}, ""
        machines = await asyncio.to_thread(_machines)
        having = set(self._entrances) or await asyncio.to_thread(_of_names, "entrance-")
        spots = [Spot(node, each["NodeManagerAddress"], _is_head(each)) for node, each in machines.items()]
        nodes, problem = chosen(spots, having, self._options.entrances)
        self._entrances = {node: self._entrances.get(node) or await self._entrance(node) for node in nodes}
        return dict(self._entrances), problem

    async def _entrance(self, node: str) -> RayEntrance:
        name = f"entrance-{node}"
        return RayEntrance(name, await asyncio.to_thread(_actor, EntranceShell, name, _on(node), self._options))


def _machines() -> dict[str, dict[str, Any]]:
    """Those that Ray takes to be alive, by their ids."""
    return {machine["NodeID"]: machine for machine in ray.nodes() if machine["Alive"]}


def _on(node: str) -> dict[str, object]:
    """The machine with this id, and no other one."""
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


def _of_names(begin: str) -> set[str]:
    """The ids of the machines with an actor whose name begins like this."""
    return {name.removeprefix(begin) for name in list_named_actors() if name.startswith(begin)}


def _is_head(machine: Mapping[str, Any]) -> bool:
    return _HEAD in machine["Resources"]


def _actor(shell: type, name: str, place: Mapping[str, object], *given: object, anew: bool = False) -> Any:
    """The actor of this name; it is made at this place unless it is there. `anew`: raises ValueError if it is."""
    return (
        ray.remote(shell)
        .options(
            name=name,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=not anew,
            max_restarts=-1,
            max_concurrency=_CALLS,
            num_cpus=0,
            **place,
        )
        .remote(*given)
    )


# The controller


class ControllerShell:
    """A `Head` as an actor."""

    async def __init__(self, options: ClusterOptions) -> None:  # type: ignore[misc]
        self._options = options
        self._machines = RayMachines(options)
        self._me = RayHolder("the controller", ray.get_runtime_context().current_actor)
        self._opening = asyncio.create_task(self._open())
        self._upgrade: asyncio.Task[None] | None = None
        self._lines: list[str] = []
        """What the last upgrade has told."""

    async def _open(self) -> Head:
        try:
            head = Head(self._options, self._machines, self._me, ray.util.get_node_ip_address())
        except OSError as error:
            raise ConfigError(f"state_location={self._options.state}: {error.strerror}: name another folder") from None
        await head.open()
        return head

    async def _head(self) -> Head:
        """Raises what keeps it from running."""
        head = await asyncio.shield(self._opening)
        head.check()
        return head

    async def opened(self) -> None:
        """Until it runs, and the entrances on the machines that are there take requests. Raises what keeps them from
        it."""
        await self._head()
        there, _ = await self._machines.ray_entrances()
        await asyncio.gather(*(entrance.opened() for entrance in there.values()))

    async def addresses(self) -> dict[str, str]:
        """Its own, by the names of its ports: those of a cluster without entrances."""
        return (await self._head()).addresses

    async def names(self) -> list[str]:
        """Of the archives of the model store."""
        return await asyncio.to_thread((await self._head()).models.names)

    async def register(self, url: str, **given: Any) -> Wanted:
        return await (await self._head()).controller.register(url, **given)

    async def scale(self, name: str, version: str | None = None, **given: Any) -> Wanted:
        return await (await self._head()).controller.scale(name, version, **given)

    async def set_default(self, name: str, version: str) -> None:
        await (await self._head()).controller.set_default(name, version)

    async def unregister(self, name: str, version: str | None = None) -> None:
        await (await self._head()).controller.unregister(name, version)

    async def upgrade(self) -> None:
        """Begin; `upgraded` tells how far it is. Raises Conflict."""
        if self._upgrade is not None and not self._upgrade.done():
            raise Conflict("an upgrade is running already: pdserver cluster status")
        self._lines = []
        self._upgrade = asyncio.create_task(self._collect((await self._head()).controller.upgrade()))

    async def _collect(self, lines: AsyncIterator[str]) -> None:
        async for line in lines:
            self._lines.append(line)

    async def upgraded(self, seen: int) -> tuple[list[str], bool]:
        """What was told after so many lines, and whether all is done. Raises PdError, once all lines are seen."""
        assert self._upgrade is not None, "upgrade() comes first"  # noqa: S101
        await asyncio.wait([self._upgrade], timeout=_PROGRESS_SECONDS)
        lines = self._lines[seen:]
        if self._upgrade.done() and not lines:
            self._upgrade.result()
        return lines, self._upgrade.done() and not lines

    async def ready(self) -> None:
        """Until it answers at the cluster's management address."""
        await (await self._head()).ready()

    async def process(self) -> int:
        """Its number: another one after it has begun anew."""
        return os.getpid()

    async def view(self) -> ClusterView:
        return (await self._head()).controller.view()

    async def piece(self, sha256: str, offset: int) -> bytes:
        return await (await self._head()).controller.piece(sha256, offset)

    async def end(self) -> None:
        await (await self._head()).close()


# What the command does


def connect(address: str) -> None:
    """Join a Ray cluster, until `leave`. "auto": the one that runs on this machine. Raises Unavailable when there is
    none, ConfigError when it refuses this process."""
    hint = "ray start --head begins one, and --local 3 begins machines on this one"
    try:
        if address != "auto":  # Ray itself would wait for a minute
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
        ray.init(address, namespace=NAMESPACE, logging_level="error", log_to_driver=False)
    except RuntimeError as error:  # such as another version of Ray, or of Python
        raise ConfigError(
            f"Ray at {address} refuses this process: {' '.join(str(error).split())}: install the same Ray and Python on"
            " all machines"
        ) from None
    except (OSError, ValueError) as error:
        raise Unavailable(f"no Ray cluster answers at {address}: {str(error).splitlines()[0]}: {hint}") from None


def leave() -> None:
    ray.shutdown()


def is_started() -> bool:
    """Whether there is a cluster of pdserver on this one of Ray."""
    return any(name == _CONTROLLER or name.startswith("node-") for name in list_named_actors())


def controller() -> Any:
    """The actor. Raises Unavailable when no cluster is started, or the controller does not run."""
    try:
        return ray.get_actor(_CONTROLLER, NAMESPACE)
    except ValueError:
        if is_started():
            raise Unavailable(
                "the cluster's controller can't begin, and its nodes serve on: pdserver cluster upgrade tries it again"
            ) from None
        raise Unavailable("no cluster of pdserver runs here: pdserver cluster start") from None


def answer(asked: Any, timeout_seconds: float | None = None) -> Any:
    """What an actor answers. Raises PdError."""
    try:
        return ray.get(asked, timeout=timeout_seconds)
    except RayError as error:
        raise _meaning("the cluster", error) from None


def addresses() -> list[str]:
    """Those of the machines, each once."""
    return sorted({machine["NodeManagerAddress"] for machine in _machines().values()})


def count() -> int:
    """Of the machines."""
    return len(_machines())


def begin(options: ClusterOptions) -> None:
    """Raises Conflict when a cluster is started already, and what keeps this one from starting."""
    try:
        made = _begun_controller(options)
    except ValueError:
        raise Conflict("a cluster of pdserver is started already: pdserver cluster status") from None
    try:
        answer(made.opened.remote())
    except BaseException:
        end(0)
        raise


def _begun_controller(options: ClusterOptions) -> Any:
    """The actor. Raises ValueError if there is one."""
    return _actor(ControllerShell, _CONTROLLER, _ON_HEAD, options, anew=True)


def upgraded() -> Iterator[str]:
    """Upgrade all nodes, and the controller after them. Yields what has been done. Raises PdError."""
    actor = _able_controller()
    answer(actor.upgrade.remote())
    seen, done = 0, False
    while not done:
        lines, done = answer(actor.upgraded.remote(seen))
        seen += len(lines)
        yield from lines
    try:
        _restart(actor)
    except PdError as error:
        raise Unavailable(
            f"all nodes are upgraded, but the controller has not come back: {error}; once that is mended, pdserver"
            " cluster upgrade tries it again"
        ) from None


def _able_controller() -> Any:
    """The controller. One that can't run begins anew: what kept it from running may be mended."""
    try:
        actor = controller()
    except Unavailable:
        node = next((name for name in list_named_actors() if name.startswith("node-")), None)
        if node is None:
            raise
        return _begun_controller(answer(ray.get_actor(node, NAMESPACE).options.remote(), _BACK_SECONDS))
    try:
        answer(actor.ready.remote(), _BACK_SECONDS)
    except NodeLost:
        raise
    except PdError:
        _restart(actor)
    return actor


def _restart(actor: Any) -> None:
    """Have the controller begin anew, and wait until it answers at the cluster's management address. Raises PdError."""
    before = answer(actor.process.remote(), _BACK_SECONDS)
    ray.kill(actor, no_restart=False)
    deadline = time.monotonic() + _BACK_SECONDS
    now = before
    while now == before:
        if time.monotonic() > deadline:
            raise Unavailable("Ray does not start it: see cluster.log")
        time.sleep(_POLL_SECONDS)
        with contextlib.suppress(NodeLost):
            now = answer(actor.process.remote(), _BACK_SECONDS)
    answer(actor.ready.remote(), _BACK_SECONDS)


def end(grace_seconds: float) -> None:
    """End the parts of the cluster that are there, each after it has answered what it took."""
    names = list_named_actors()
    _end([name for name in names if name == _CONTROLLER], grace_seconds)
    _end([name for name in names if name.startswith("entrance-")], grace_seconds, grace_seconds)
    _end([name for name in names if name.startswith("node-")], grace_seconds + 15)


def _end(names: Sequence[str], patience_seconds: float, *given: float) -> None:
    """Those that don't answer in time are killed."""
    actors = []
    for name in names:
        with contextlib.suppress(ValueError):
            actors.append(ray.get_actor(name, NAMESPACE))
    asked = [actor.end.remote(*given) for actor in actors]
    done, _ = ray.wait(asked, num_returns=len(asked), timeout=patience_seconds) if asked else ([], [])
    for ended in done:
        with contextlib.suppress(RayError):  # it could not even begin, or has died by itself
            ray.get(ended)
    for actor in actors:
        ray.kill(actor)


def machines(number: int, ready_fd: int) -> None:
    """Have so many machines of a new Ray cluster in this process, until SIGTERM. Their address goes to `ready_fd`, as
    JSON."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    own = {"num_cpus": core_count(), "object_store_memory": _STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={**own, "include_dashboard": False})
    try:
        for _ in range(number - 1):
            cluster.add_node(**own)
        os.write(ready_fd, json.dumps({"address": cluster.address}).encode() + b"\n")
        os.close(ready_fd)
        threading.Event().wait()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        cluster.shutdown()
