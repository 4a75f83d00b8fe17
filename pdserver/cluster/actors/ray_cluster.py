"""A cluster of pdserver on one of Ray, as the command has it.

connect("HOST:PORT")                        the Ray cluster, "auto" for the one that runs on this machine
begin(options)                              returns when the controller answers
answer(controller().view.remote())          as any method of ControllerShell
end(25)                                     drains and ends all; no actor is left
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util import list_named_actors

from pdserver.cluster.actors.asking import meaning
from pdserver.cluster.actors.controller import ControllerShell
from pdserver.cluster.actors.making import (
    BACK_SECONDS,
    CONTROLLER,
    NAMESPACE,
    ON_HEAD,
    POLL_SECONDS,
    machines_alive,
    made,
)
from pdserver.cluster.base import NodeLost
from pdserver.cluster.options import ClusterOptions
from pdserver.errors import ConfigError, Conflict, PdError, Unavailable

_CONNECT_SECONDS = 3.0


def connect(address: str) -> str:
    """Join a Ray cluster, until `leave`. "auto": the one that runs on this machine. Returns its HOST:PORT. Raises
    Unavailable when there is none, ConfigError when it refuses this process."""
    hint = (
        "ray start --head begins one, and --local 3 begins machines on this one; if that one has a token,"
        " ~/.ray/auth_token must be the same here"
    )
    try:
        if address != "auto":  # Ray itself would wait for a minute
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
        ray.init(address, namespace=NAMESPACE, logging_level="error", log_to_driver=False)
        return str(ray.get_runtime_context().gcs_address)
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
    return any(name == CONTROLLER or name.startswith("node-") for name in list_named_actors())


def controller() -> Any:
    """The actor. Raises Unavailable when no cluster is started, or the controller does not run."""
    try:
        return ray.get_actor(CONTROLLER, NAMESPACE)
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
        raise meaning("the cluster", error) from None


def addresses() -> list[str]:
    """Those of the machines, each once."""
    return sorted({machine["NodeManagerAddress"] for machine in machines_alive().values()})


def count() -> int:
    """Of the machines."""
    return len(machines_alive())


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
    return made(ControllerShell, CONTROLLER, ON_HEAD, options, anew=True)


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
        return _begun_controller(answer(ray.get_actor(node, NAMESPACE).options.remote(), BACK_SECONDS))
    try:
        answer(actor.ready.remote(), BACK_SECONDS)
    except NodeLost:
        raise
    except PdError:
        _restart(actor)
    return actor


def _restart(actor: Any) -> None:
    """Have the controller begin anew, and wait until it answers at the cluster's management address. Raises PdError."""
    before = answer(actor.process.remote(), BACK_SECONDS)
    ray.kill(actor, no_restart=False)
    deadline = time.monotonic() + BACK_SECONDS
    now = before
    while now == before:
        if time.monotonic() > deadline:
            raise Unavailable("Ray does not start it: see cluster.log")
        time.sleep(POLL_SECONDS)
        with contextlib.suppress(NodeLost):
            now = answer(actor.process.remote(), BACK_SECONDS)
    answer(actor.ready.remote(), BACK_SECONDS)


def end(grace_seconds: float) -> None:
    """End the parts of the cluster that are there, each after it has answered what it took."""
    names = list_named_actors()
    _end([name for name in names if name == CONTROLLER], grace_seconds)
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
