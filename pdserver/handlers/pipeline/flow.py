"""Requests on their way through all Ops of a service, in one process.

An Op runs when all that it takes from have answered. One with `jump_to_ops` whose `check_jumping` says so gives its
answer to the Ops behind those that it names: back, for another round, or past others. That is what operator.py and
channel.py of paddle_serving_server 0.9 do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pdserver.handlers.pipeline.failures import CustomExceptionCode, OpFailed
from pdserver.handlers.pipeline.op import READER
from pdserver.handlers.pipeline.run import Attempt, Stage, Step

MOST_ROUNDS = 1000
"""How often a request may pass the same Op. There, a loop that never ends holds its worker for ever."""


@dataclass
class Task(Attempt):
    """One request on its way."""

    answer: dict[str, Any] | None = None
    """What the last Op gave."""
    inboxes: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """What waits for an Op, by the name of the Op that gave it."""
    rounds: Counter[str] = field(default_factory=Counter)

    @property
    def ended(self) -> bool:
        return self.failure is not None or self.answer is not None


class Flow:
    """`stages` are in an order in which each comes after those that it takes from; the last one gives the answer."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = stages
        self._takes = {
            stage.op.name: list(dict.fromkeys(op.name for op in stage.op.get_input_ops())) for stage in stages
        }
        self._last = stages[-1].op.name

    def run(self, tasks: Sequence[Task], given: Sequence[dict[str, Any]]) -> None:
        """Each of `tasks` has its answer then, or its failure. `given` is what each request said."""
        for task, said in zip(tasks, given, strict=True):
            if not task.ended:
                self._deliver(task, READER, said, [READER])
        while due := self._due(tasks):
            stage, ready = due
            name = stage.op.name
            steps = [Step(task.data_id, task.log_id, inputs=task.inboxes.pop(name)) for task in ready]
            stage.run(steps)
            jumps = [op.name for op in stage.op.get_jump_to_ops()]
            for task, step in zip(ready, steps, strict=True):
                task.failure = step.failure
                if step.failure is None:
                    self._deliver(task, name, step.answer, jumps if step.jumps else [name])
        for task in tasks:
            if not task.ended:
                waiting = ", ".join(task.inboxes) or "none"
                text = f"no Op is left to answer: what {waiting} waits for was jumped over"
                task.failure = OpFailed(CustomExceptionCode.CONF_ERROR, text)

    def _due(self, tasks: Sequence[Task]) -> tuple[Stage, list[Task]] | None:
        """The first Op that something waits for, with all requests that wait there, so that they share its batches."""
        for stage in self._stages:
            name = stage.op.name
            takes = len(self._takes[name])
            ready = [task for task in tasks if not task.ended and len(task.inboxes.get(name, ())) == takes]
            if ready:
                return stage, ready
        return None

    def _deliver(self, task: Task, giver: str, answer: dict[str, Any], places: Sequence[str]) -> None:
        """Give `answer` to the Ops behind those in `places`."""
        if self._last in places:
            task.answer = answer
            return
        for name, takes in self._takes.items():
            if not set(takes).isdisjoint(places):
                task.rounds[name] += 1
                if task.rounds[name] > MOST_ROUNDS * len(takes):
                    text = f"[{giver}] check_jumping: the request has passed {name} {MOST_ROUNDS} times: end the loop"
                    task.failure = OpFailed(CustomExceptionCode.CONF_ERROR, text)
                    return
                # A hook may change what it is given, which another Op may be given as well.
                task.inboxes.setdefault(name, {})[giver] = dict(answer)
