"""Runs one Op for the requests of a batch: each prepared by itself, the model for all at once, each finished by itself.

What fails for one request fails that one alone.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pdserver.errors import PdError
from pdserver.handlers.pipeline.failures import CustomExceptionCode, OpFailed, raise_product_error
from pdserver.handlers.pipeline.op import Op
from pdserver.handlers.runtime.answers import described

_log = logging.getLogger("pdserver.handlers")


@dataclass
class Task:
    """One request on its way through the Ops."""

    data_id: int
    log_id: int
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What each Op gave, by its name."""
    failure: OpFailed | None = None

    @contextmanager
    def failing(self, place: str) -> Iterator[None]:
        """Whatever is raised inside fails this request. `place` names the Op and its hook."""
        try:
            yield
        except OpFailed as error:
            self.failure = error
        except PdError as error:
            self.failure = OpFailed(CustomExceptionCode.INPUT_PARAMS_ERROR, f"{place}: {error}")
        except Exception as error:  # noqa: BLE001 - whatever the operator's hook raises
            _log.exception("%s of request %d failed", place, self.data_id)
            self.failure = OpFailed(CustomExceptionCode.UNKNOW, f"{place}: {described(error)}")


@dataclass
class _Step:
    """One Op's work for one request."""

    task: Task
    inputs: dict[str, dict[str, Any]]
    feed: Any = None
    """What `preprocess` returned; then, what `process` made of it."""
    skips: bool = False


class Stage:
    """An Op in its place. It takes up to `batch_size` requests together."""

    def __init__(self, op: Op, batch_size: int) -> None:
        self._op = op
        self._batch_size = batch_size
        self._inputs = [other.name for other in op.get_input_ops()]
        self._postprocess = _with_data_id(op.postprocess)
        self._joins = op.client is not None and op.client.keeps_rows

    def run(self, tasks: Sequence[Task]) -> None:
        """Add the Op's answer, or its failure, to each of `tasks` that has not failed."""
        waiting = [task for task in tasks if task.failure is None]
        for start in range(0, len(waiting), self._batch_size):
            steps = list(map(self._prepared, waiting[start : start + self._batch_size]))
            self._process([step for step in steps if step.task.failure is None and not step.skips])
            for step in steps:
                if step.task.failure is None:
                    self._finish(step)

    def _prepared(self, task: Task) -> _Step:
        # A hook may change what it is given, which another Op may be given as well.
        step = _Step(task, {name: dict(task.answers[name]) for name in self._inputs})
        with task.failing(f"[{self._op.name}] preprocess"):
            step.feed, skips, number, text = self._op.preprocess(step.inputs, task.data_id, task.log_id)
            raise_product_error(number, text)
            step.skips = skips is True
        return step

    def _process(self, steps: Sequence[_Step]) -> None:
        if self._op.client is None:
            return
        for group in _alike(steps) if self._joins else [[step] for step in steps]:
            if len(group) == 1 or not self._run_together(group):
                for step in group:
                    self._run_alone(step)

    def _run_together(self, group: Sequence[_Step]) -> bool:
        """Whether that went well. If not, none of them has changed."""
        lengths = [len(next(iter(step.feed.values()))) for step in group]
        joined = {name: np.concatenate([step.feed[name] for step in group]) for name in group[0].feed}
        try:
            outputs = self._ask(joined, group[0].task.log_id)
        except Exception:  # noqa: BLE001 - of one of them, which is found out when each is run by itself
            return False
        if not _are_rows(outputs, sum(lengths)):
            self._joins = False
            _log.warning(
                "[%s]: the model's outputs are not a row for each row that it is given: requests are run one by one",
                self._op.name,
            )
            return False
        ends = np.cumsum(lengths).tolist()
        for step, start, end in zip(group, [0, *ends], ends, strict=False):
            step.feed = {name: values[start:end] for name, values in outputs.items()}
        return True

    def _run_alone(self, step: _Step) -> None:
        with step.task.failing(f"[{self._op.name}] failed to predict"):
            if isinstance(step.feed, list):
                step.feed = [self._ask(feed, step.task.log_id) for feed in step.feed]
            else:
                step.feed = self._ask(step.feed, step.task.log_id)

    def _ask(self, feed: Any, log_id: int) -> Any:
        if not isinstance(feed, dict):
            raise OpFailed(
                CustomExceptionCode.TYPE_ERROR,
                f"[{self._op.name}]: preprocess gave the model {type(feed).__name__}: return a dict of arrays by the "
                "names of inputs, or a list of such dicts",
            )
        fetched, number, text = self._op.process([feed], log_id)
        raise_product_error(number, f"[{self._op.name}] failed to predict: {text}")
        return fetched

    def _finish(self, step: _Step) -> None:
        task, name = step.task, self._op.name
        with task.failing(f"[{name}] postprocess"):
            answer, number, text = self._postprocess(step.inputs, step.feed, task.data_id, task.log_id)
            raise_product_error(number, text)
            if not isinstance(answer, dict):
                raise OpFailed(
                    CustomExceptionCode.TYPE_ERROR, f"[{name}] postprocess returned {type(answer).__name__}, not a dict"
                )
            task.answers[name] = answer


def _with_data_id(postprocess: Callable[..., Any]) -> Callable[..., Any]:
    """The hook with four arguments. Before Paddle Serving 0.7, it had no data_id."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(postprocess).parameters.values()
    if any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters):
        return postprocess
    if sum(each.kind in kinds for each in parameters) > 3:
        return postprocess
    return lambda inputs, fetched, data_id, log_id: postprocess(inputs, fetched, log_id)


def _alike(steps: Sequence[_Step]) -> list[list[_Step]]:
    """Those that the model can be given together, in groups: arrays of the same names, dtypes and shapes of a row."""
    groups: dict[object, list[_Step]] = {}
    for step in steps:
        groups.setdefault(_kind(step.feed) or id(step), []).append(step)
    return list(groups.values())


def _kind(feed: Any) -> object:
    """Equal for arrays that can share a run of the model; None for what can share none."""
    if not isinstance(feed, dict) or not all(isinstance(value, np.ndarray) and value.ndim for value in feed.values()):
        return None
    if len({len(value) for value in feed.values()}) != 1 or not all(value.size for value in feed.values()):
        return None
    return tuple(sorted((str(name), value.shape[1:], value.dtype.str) for name, value in feed.items()))


def _are_rows(outputs: Any, count: int) -> bool:
    return isinstance(outputs, dict) and all(
        isinstance(values, np.ndarray) and values.shape[:1] == (count,) for values in outputs.values()
    )
