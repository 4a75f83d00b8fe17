"""The Ops of a web service, in an order in which each comes after those that it takes from."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

from pdserver.errors import ConfigError
from pdserver.formats.values import listed
from pdserver.handlers.pipeline.op import Op, RequestOp


def order(last: object) -> tuple[RequestOp, list[Op]]:
    """The Op that takes requests apart, and all others that lead to `last`, which comes last.

    Raises ConfigError for what is no graph from one RequestOp to `last`.
    """
    if not isinstance(last, Op) or isinstance(last, RequestOp):
        found = "the read_op" if isinstance(last, RequestOp) else f"{type(last).__name__}"
        raise ConfigError(f"get_pipeline_response returned {found}: return the last Op")
    sorter: TopologicalSorter[Op] = TopologicalSorter()
    seen = {last}
    waiting = [last]
    for op in waiting:  # it grows meanwhile
        inputs = op.get_input_ops()
        sorter.add(op, *inputs)
        waiting += [other for other in dict.fromkeys(inputs) if other not in seen]
        seen.update(inputs)
    try:
        ordered = list(sorter.static_order())
    except CycleError as error:
        names = " → ".join(op.name for op in error.args[1])
        raise ConfigError(f"input_ops: {names}: the Ops wait for each other: a request passes each once") from None
    readers = [op for op in ordered if isinstance(op, RequestOp)]
    ops = [op for op in ordered if not isinstance(op, RequestOp)]
    _check(readers, ops)
    return readers[0], ops


def _check(readers: list[RequestOp], ops: list[Op]) -> None:
    if len(readers) > 1:
        raise ConfigError("several Ops take the request apart: give all of them the one read_op of the service")
    names = [op.name for op in ops]
    for op in ops:
        inputs = op.get_input_ops()
        if not inputs:
            raise ConfigError(f"Op {op.name}: no input_ops: name the Ops that it takes from, or read_op")
        if names.count(op.name) > 1:
            raise ConfigError(f"two Ops are called {op.name}: give each a name of its own")
        for other in op.get_jump_to_ops():
            if other not in ops and other not in readers:
                raise ConfigError(
                    f"Op {op.name}: jump_to_ops: {other.name} is none of the service's Ops: {listed(names)}"
                )
        if len(inputs) > 1 and type(op).preprocess is Op.preprocess:
            raise ConfigError(f"Op {op.name}: several input_ops: override preprocess, which joins what they give")
