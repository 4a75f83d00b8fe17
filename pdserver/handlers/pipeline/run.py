"""Runs one Op for the requests of a batch: each prepared by itself, the model for all at once, each finished by itself.

What fails for one request fails that one alone. What a hook keeps in `self` belongs to the request at hand.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pdserver.errors import PdError
from pdserver.handlers.pipeline.failures import CustomExceptionCode, OpFailed, raise_product_error
from pdserver.handlers.pipeline.op import ChannelData, Op
from pdserver.handlers.runtime.answers import described

_log = logging.getLogger("pdserver.handlers")
_NOWHERE = object()


@dataclass
class Attempt:
    """Something that is done for one request, and may fail."""

    data_id: int
    log_id: int
    failure: OpFailed | None = None

    @contextmanager
    def failing(self, place: str) -> Iterator[None]:
        """Whatever is raised inside is the failure. `place` names the Op and its hook."""
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
class Step(Attempt):
    """One Op's work for one request."""

    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What each of the Ops that it takes from gave, by their names."""
    answer: dict[str, Any] = field(default_factory=dict)
    jumps: bool = False
    """Whether the answer goes on behind the Ops that `jump_to_ops` names."""


@dataclass
class _Turn:
    """A step while it is under way."""

    step: Step
    op: Op
    """The request's own copy: what hooks set on it is seen by no other request. What they change is shared."""
    feed: Any = None
    """What `preprocess` returned; then, what `process` made of it."""
    skips: bool = False


class Stage:
    """An Op in its place. It takes up to `batch_size` requests together."""

    def __init__(self, op: Op, batch_size: int) -> None:
        self.op = op
        self._batch_size = batch_size
        self._takes_data_id = _takes_data_id(op)
        self._joins = op.client is not None and op.client.keeps_rows
        self._own_process = type(op).process is not Op.process or "process" in vars(op)

    def run(self, steps: Sequence[Step]) -> None:
        """Each of `steps` has its answer then, or its failure."""
        for start in range(0, len(steps), self._batch_size):
            turns = list(map(self._prepared, steps[start : start + self._batch_size]))
            self._process([turn for turn in turns if turn.step.failure is None and not turn.skips])
            for turn in turns:
                if turn.step.failure is None:
                    self._finish(turn)

    def _prepared(self, step: Step) -> _Turn:
        turn = _Turn(step, copy.copy(self.op))
        with step.failing(f"[{self.op.name}] preprocess"):
            turn.feed, skips, number, text = turn.op.preprocess(step.inputs, step.data_id, step.log_id)
            raise_product_error(number, text)
            turn.skips = skips is True
        return turn

    def _process(self, turns: Sequence[_Turn]) -> None:
        if self.op.client is None:
            return
        for group in self._groups(turns):
            if len(group) == 1 or not self._run_together(group):
                for turn in group:
                    self._run_alone(turn)

    def _groups(self, turns: Sequence[_Turn]) -> list[list[_Turn]]:
        """Those that the model can be given together: arrays of the same names, dtypes and shapes of a row."""
        groups: dict[object, list[_Turn]] = {}
        for turn in turns:
            kind = _kind(turn.feed) if self._joins and not (self._own_process and self._keeps(turn)) else None
            groups.setdefault(kind or id(turn), []).append(turn)
        return list(groups.values())

    def _keeps(self, turn: _Turn) -> bool:
        """Whether `preprocess` has left something in `self`, which an overridden `process` may look for."""
        shared = vars(self.op)
        return any(shared.get(name, _NOWHERE) is not value for name, value in vars(turn.op).items())

    def _run_together(self, group: Sequence[_Turn]) -> bool:
        """Whether that went well. If not, none of them has changed."""
        lengths = [len(next(iter(turn.feed.values()))) for turn in group]
        joined = {name: np.concatenate([turn.feed[name] for turn in group]) for name in group[0].feed}
        try:
            outputs = _ask(self.op, joined, group[0].step.log_id)
        except Exception:  # noqa: BLE001 - of one of them, which is found out when each is run by itself
            return False
        if not _are_rows(outputs, sum(lengths)):
            self._joins = False
            _log.warning(
                "[%s]: the model's outputs are not a row for each row that it is given: requests are run one by one",
                self.op.name,
            )
            return False
        ends = np.cumsum(lengths).tolist()
        for turn, start, end in zip(group, [0, *ends], ends, strict=False):
            turn.feed = {name: values[start:end] for name, values in outputs.items()}
        return True

    def _run_alone(self, turn: _Turn) -> None:
        log_id = turn.step.log_id
        with turn.step.failing(f"[{self.op.name}] failed to predict"):
            if isinstance(turn.feed, list):
                turn.feed = [_ask(turn.op, feed, log_id) for feed in turn.feed]
            else:
                turn.feed = _ask(turn.op, turn.feed, log_id)

    def _finish(self, turn: _Turn) -> None:
        step, name = turn.step, self.op.name
        with step.failing(f"[{name}] postprocess"):
            ids = (step.data_id, step.log_id) if self._takes_data_id else (step.log_id,)
            answer, number, text = turn.op.postprocess(step.inputs, turn.feed, *ids)
            raise_product_error(number, text)
            if not isinstance(answer, dict):
                raise OpFailed(
                    CustomExceptionCode.TYPE_ERROR, f"[{name}] postprocess returned {type(answer).__name__}, not a dict"
                )
            step.answer = answer
        if self.op.is_jump_op() and step.failure is None:
            with step.failing(f"[{name}] check_jumping"):
                channel = ChannelData(step.data_id, step.log_id, data=step.answer)
                step.jumps = turn.op.check_jumping({step.data_id: channel}) is True


def _ask(op: Op, feed: Any, log_id: int) -> Any:
    if not isinstance(feed, dict):
        raise OpFailed(
            CustomExceptionCode.TYPE_ERROR,
            f"[{op.name}]: preprocess gave the model {type(feed).__name__}: return a dict of arrays by the "
            "names of inputs, or a list of such dicts",
        )
    fetched, number, text = op.process([feed], log_id)
    raise_product_error(number, f"[{op.name}] failed to predict: {text}")
    return fetched


def _takes_data_id(op: Op) -> bool:
    """Whether `postprocess` has four arguments. Before Paddle Serving 0.7, it had no data_id."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(op.postprocess).parameters.values()
    if any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters):
        return True
    return sum(each.kind in kinds for each in parameters) > 3


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
