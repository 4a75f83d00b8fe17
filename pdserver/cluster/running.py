"""A cluster that runs: where it is, how it is, its upgrade and its end."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Mapping

import msgspec

from pdserver.cluster import local
from pdserver.cluster.actors import ray_cluster
from pdserver.cluster.base import ClusterView, CopyView, DoorView, ModelView, NodeView
from pdserver.cluster.record import Record
from pdserver.cluster.since import written
from pdserver.command.running import NOT_RUNNING_STATUS
from pdserver.errors import Unavailable
from pdserver.system.standard_streams import say

_ANSWER_SECONDS = 10.0
_NAMES = ["inference", "grpc", "management", "grpc_management", "metrics"]
_SHOWN = 8
"""Characters of a node's id."""


class Running:
    """The cluster that this user has started last, or another one at `address`."""

    def __init__(self, record: Record | None, address: str, stop_seconds: float) -> None:
        """`record` is that of the first one, `stop_seconds` are for what it has accepted when it is stopped."""
        self._record = record
        self._stop_seconds = stop_seconds
        self._address = address or (record.address if record else "")
        """Empty: neither. Whatever Ray finds on this machine may be somebody else's."""

    def status(self, *, as_json: bool) -> int:
        """Say how it is. Returns the command's exit status."""
        reached = self._told()
        if reached is None:
            if as_json:
                say(json.dumps({"running": False}, indent=2))
            else:
                say(f"No cluster of pdserver is running: {self._hint()}")
            return NOT_RUNNING_STATUS
        view, addresses = reached
        found = problems(view)
        if as_json:
            report = {"running": True, "ray": self._address, "addresses": addresses, **msgspec.to_builtins(view)}
            say(json.dumps({**report, "problems": found}, indent=2))
        else:
            say_served(view, addresses)
            for what, problem in found.items():
                say(f"pdserver: {what}: {problem}", error=True)
        return 1 if found else 0

    def stop(self) -> int:
        """Let it answer what it took, and end all of it. Returns the command's exit status."""
        if self._connect():
            ray_cluster.end(self._stop_seconds)
            ray_cluster.leave()
            say("The cluster has stopped.")
        else:
            say("No cluster of pdserver is running." if self._address else f"No cluster to stop: {self._hint()}")
        if self._record is not None and self._record.machines is not None:
            local.end(self._record.machines)
        return 0

    def upgrade(self) -> int:
        """Returns the command's exit status. Raises Unavailable."""
        if not self._connect():
            raise Unavailable(f"no cluster of pdserver is running: {self._hint()}")
        for line in ray_cluster.upgraded():
            say(line)
        say("All nodes run what is installed now.")
        return 0

    def _hint(self) -> str:
        if self._address:
            return "pdserver cluster start"
        return (
            "this user has started none: pdserver cluster start begins one, and --address HOST:PORT (auto: on this"
            " machine) names one that others have started"
        )

    def _told(self) -> tuple[ClusterView, dict[str, str]] | None:
        """None: there is none. What Ray prints meanwhile of its machines is not for stdout."""
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                return told() if self._connect() else None
            finally:
                ray_cluster.leave()

    def _connect(self) -> bool:
        """Whether there is one."""
        if not self._address:
            return False
        machines = self._record.machines if self._record else None
        if machines is not None and local.process(machines) is None:
            return False
        try:
            ray_cluster.connect(self._address)
        except Unavailable:
            return False
        return ray_cluster.is_started()


def told() -> tuple[ClusterView, dict[str, str]]:
    """What the controller knows, and the addresses of the cluster's first entrance, or else its own. A controller that
    is replaced is waited for. Raises Unavailable."""
    deadline = time.monotonic() + _ANSWER_SECONDS
    while True:
        try:
            controller = ray_cluster.controller()
            view, own = ray_cluster.answer(controller.view.remote()), ray_cluster.answer(controller.addresses.remote())
            if not _is_new(view) or time.monotonic() > deadline:
                return view, dict(next(iter(ways_in(view)), own))
        except Unavailable:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def _is_new(view: ClusterView) -> bool:
    """Whether the controller has not heard of all yet, and soon will."""
    return view.recovering or any(map(is_starting, view.entrances))


def is_starting(door: DoorView) -> bool:
    return not door.lost and (door.status is None or door.status.starting)


def ways_in(view: ClusterView) -> list[Mapping[str, str]]:
    """The addresses of each entrance that takes requests."""
    return [door.status.addresses for door in view.entrances if door.status and not problem_of_entrance(door)]


def say_served(view: ClusterView, addresses: Mapping[str, str]) -> None:
    ways = ways_in(view) or [addresses]
    for name in _NAMES:
        for way in ways:
            if name in way:
                say(f"{name:<15} {way[name]}")
    for node in view.nodes:
        say(f"{'node':<15} {_node(node)}")
    for model in view.models:
        say(f"{'model':<15} {_model(model)}")
        for copy in model.copies:
            if not copy.ready or copy.leaving:
                say(f"{'copy':<15} {_copy(model, copy)}")


def _node(view: NodeView) -> str:
    status = view.status
    if status is None:
        return f"{view.node[:_SHOWN]}, not heard yet"
    free = f"{status.free_bytes / 2**30:.1f} of {status.memory_bytes / 2**30:.1f} GiB free"
    state = f", {'lost' if view.lost else 'draining'} since {written(view.since)}" if view.lost or view.draining else ""
    server = f"{status.addresses.inference}, pdserver {status.version}" if status.version else "no server"
    return f"{view.node[:_SHOWN]}, {server}, {free}{state}"


def _model(view: ModelView) -> str:
    ready = [copy.node[:_SHOWN] for copy in view.copies if copy.ready]
    wanted = view.wanted
    default = ", default" if wanted.default else ""
    asked = f", asked by {', '.join(map(str, view.asked_by))}" if view.asked_by else ""
    more = len(ready) > wanted.copies
    count = f"{len(ready)} copies ({wanted.copies} wanted)" if more else f"{len(ready)} of {wanted.copies} copies"
    return f"{wanted.ref}, {count}: {', '.join(ready) or 'none'}{default}{asked}"


def _copy(model: ModelView, copy: CopyView) -> str:
    since = f"{copy.state} since {written(copy.since)}"
    return f"{model.wanted.ref} on {copy.node[:_SHOWN]}, {since}: {copy.reason}"


def problems(view: ClusterView) -> dict[str, str]:
    """What is not as it should be, and why."""
    found = {"controller": "it has not heard from all nodes yet"} if view.recovering else {}
    if view.entrance_problem:
        found["entrances"] = view.entrance_problem
    for door in view.entrances:
        if problem := problem_of_entrance(door):
            found[f"entrance on {door.status.host if door.status else door.node[:_SHOWN]}"] = problem
    for node in view.nodes:
        if problem := problem_of(node):
            found[f"node {node.node[:_SHOWN]}"] = problem
    for model in view.models:
        if model.problem:
            found[str(model.wanted.ref)] = model.problem
        found |= {f"{model.wanted.ref} on {copy.node[:_SHOWN]}": copy.problem for copy in model.copies if copy.problem}
    return found


def problem_of(node: NodeView) -> str:
    return node.problem or (node.status.problem if node.status else "")


def problem_of_entrance(door: DoorView) -> str:
    if door.lost or door.status is None:
        return door.problem or "it does not answer"
    return door.problem or door.status.problem
