"""A cluster that runs: where it is, how it is, its upgrade and its end."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from pdarchiver.staging import staged_file
from pdserver.cluster import actors, local
from pdserver.cluster.base import ClusterView, ModelView, NodeView
from pdserver.command.running import FINDING, NOT_RUNNING_STATUS
from pdserver.configuration.loading import load_config
from pdserver.errors import ConfigError, Unavailable
from pdserver.store.run_directory import state_folder
from pdserver.system.folders import make_folder
from pdserver.system.standard_streams import say

_ANSWER_SECONDS = 10.0
_SHOWN = 8
"""Characters of a node's id."""


class Record(msgspec.Struct, frozen=True):
    """What the next commands need to know of a cluster that was started here."""

    cluster: str
    """Its id."""
    address: str
    """Of the Ray cluster."""
    machines: local.LocalMachines | None = None
    """Those that were begun for it."""


def record_path(state: Path) -> Path:
    return state / "cluster" / "cluster.json"


def read(state: Path) -> Record | None:
    """The last cluster that was started; None: there was none."""
    try:
        return msgspec.json.decode(record_path(state).read_bytes(), type=Record)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{record_path(state)}: can't be read: {error}: remove it") from None


def write(state: Path, record: Record) -> None:
    """Raises ConfigError."""
    path = record_path(state)
    try:
        make_folder(path.parent, 0o700)
        with staged_file(path) as stage:
            stage.write_bytes(msgspec.json.encode(record))
    except OSError as error:
        raise ConfigError(
            f"state_location={state}: {error.strerror}: name a folder that this user may write to"
        ) from None


class Running:
    """The cluster that this user has started last, or another one at `address`."""

    def __init__(
        self, overrides: Mapping[str, str], environment: Mapping[str, str], file: Path | None, address: str
    ) -> None:
        """Raises ConfigError."""
        config = load_config(overrides, environment, file, keys=FINDING)
        self._stop_seconds = config.stop_timeout_seconds
        self._state = state_folder(config.state_location, config.xdg_state_home)
        self._record = None if address else read(self._state)
        self._address = address or (self._record.address if self._record else "auto")

    def status(self, *, as_json: bool) -> int:
        """Say how it is. Returns the command's exit status."""
        if not self._connect():
            if as_json:
                say(json.dumps({"running": False}, indent=2))
            else:
                say("No cluster of pdserver is running: pdserver cluster start")
            return NOT_RUNNING_STATUS
        view, addresses = told()
        problems = dict(_problems(view))
        if as_json:
            report = {"running": True, "ray": self._address, "addresses": addresses, **msgspec.to_builtins(view)}
            say(json.dumps({**report, "problems": problems}, indent=2))
        else:
            say_served(view, addresses)
            for what, problem in problems.items():
                say(f"pdserver: {what}: {problem}", error=True)
        return 1 if problems else 0

    def stop(self) -> int:
        """Let it answer what it took, and end all of it. Returns the command's exit status."""
        if self._connect():
            actors.end(self._stop_seconds)
            actors.leave()
            say("The cluster has stopped.")
        else:
            say("No cluster of pdserver is running.")
        if self._record is not None and self._record.machines is not None:
            local.end(self._record.machines)
        return 0

    def upgrade(self) -> int:
        """Returns the command's exit status. Raises Unavailable."""
        if not self._connect():
            raise Unavailable("no cluster of pdserver is running: pdserver cluster start")
        for line in actors.upgraded():
            say(line)
        say("All nodes run what is installed now.")
        return 0

    def _connect(self) -> bool:
        """Whether there is one."""
        machines = self._record.machines if self._record else None
        if machines is not None and local.process(machines) is None:
            return False
        try:
            actors.connect(self._address)
        except Unavailable:
            return False
        return actors.is_started()


def told() -> tuple[ClusterView, dict[str, str]]:
    """What the controller knows, and the cluster's addresses. A controller that is replaced is waited for. Raises
    Unavailable."""
    deadline = time.monotonic() + _ANSWER_SECONDS
    while True:
        try:
            controller = actors.controller()
            return actors.answer(controller.view.remote()), actors.answer(controller.addresses.remote())
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def say_served(view: ClusterView, addresses: Mapping[str, str]) -> None:
    for name, address in addresses.items():
        say(f"{name:<15} {address}")
    for node in view.nodes:
        say(f"{'node':<15} {_node(node)}")
    for model in view.models:
        say(f"{'model':<15} {_model(model)}")


def _node(view: NodeView) -> str:
    status = view.status
    if status is None:
        return f"{view.node[:_SHOWN]}, not heard yet"
    free = f"{status.free_bytes / 2**30:.1f} of {status.memory_bytes / 2**30:.1f} GiB free"
    state = ", lost" if view.lost else ", draining" if view.draining else ""
    return f"{view.node[:_SHOWN]}, {status.addresses.inference}, pdserver {status.version}, {free}{state}"


def _model(view: ModelView) -> str:
    ready = [copy.node[:_SHOWN] for copy in view.copies if copy.ready]
    wanted = view.wanted
    default = ", default" if wanted.default else ""
    return f"{wanted.ref}, {len(ready)} of {wanted.copies} copies: {', '.join(ready) or 'none'}{default}"


def _problems(view: ClusterView) -> Iterator[tuple[str, str]]:
    if view.recovering:
        yield "controller", "it has just begun, and has not heard from all nodes yet"
    for node in view.nodes:
        if problem := problem_of(node):
            yield f"node {node.node[:_SHOWN]}", problem
    for model in view.models:
        if model.problem:
            yield str(model.wanted.ref), model.problem
        for copy in model.copies:
            if copy.problem:
                yield f"{model.wanted.ref} on {copy.node[:_SHOWN]}", copy.problem


def problem_of(node: NodeView) -> str:
    if node.lost:
        return "it does not answer"
    return node.problem or (node.status.problem if node.status else "")
