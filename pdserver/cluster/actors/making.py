"""Makes actors, and finds the machines and actors that are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray.util import list_named_actors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

NAMESPACE = "pdserver"
CONTROLLER = "controller"
"""The name of its actor."""
BACK_SECONDS = 60.0
"""For an actor to end, or to begin anew."""
POLL_SECONDS = 0.1
_HEAD = "node:__internal_head__"
"""The resource by which Ray marks the head's machine."""
ON_HEAD = {"resources": {_HEAD: 0.001}}
"""Whichever machine that is: it may be another one after the head's has died."""
_CALLS = 1000
"""At a time, of one actor."""


def machines_alive() -> dict[str, dict[str, Any]]:
    """Those that Ray takes to be alive, by their ids."""
    return {machine["NodeID"]: machine for machine in ray.nodes() if machine["Alive"]}


def on(node: str) -> dict[str, object]:
    """The machine with this id, and no other one."""
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


def of_names(begin: str) -> set[str]:
    """The ids of the machines with an actor whose name begins like this."""
    return {name.removeprefix(begin) for name in list_named_actors() if name.startswith(begin)}


def is_head(machine: Mapping[str, Any]) -> bool:
    return _HEAD in machine["Resources"]


def made(shell: type, name: str, place: Mapping[str, object], *given: object, anew: bool = False) -> Any:
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
