"""ONNX's operations along axes: what is taken along one that is not the rows' leaves the rows where they are."""

from __future__ import annotations

from pdserver.handlers.runtime.rowwise.dims import Dim, product
from pdserver.handlers.runtime.rowwise.onnx.shaping import axes
from pdserver.handlers.runtime.rowwise.reducing import along, along_an_axis, triangle, without
from pdserver.handlers.runtime.rowwise.rules import Outputs, Step, rule
from pdserver.handlers.runtime.rowwise.value import Mixed, Value, axis_of, constant, fixed, one, whole

rule("Softmax LogSoftmax Hardmax")(along_an_axis)


@rule(
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
)
def reduce(step: Step) -> Outputs:
    keep = bool(step.attribute("keepdims", 1))
    shape = step.operand(0)
    if isinstance(shape, Value) and shape.counts_rows and step.kind == "ReduceProd":
        return [_number_of_elements(shape, keep)]
    value = one(shape)
    wanted = axes(step) or []
    if not wanted and step.attribute("noop_with_empty_axes", 0):
        return [value.plain()]
    return [without(value, along(value, wanted), keep=keep)]


def _number_of_elements(shape: Value, keep: bool) -> Value:
    numbers = [number for number in shape.numbers or () if number is not None]
    if shape.rank != 1 or len(numbers) < len(shape.numbers or ()):
        raise Mixed
    return Value((Dim(1),) * keep, numbers=(product(numbers),))


@rule("ArgMax ArgMin")
def best(step: Step) -> Outputs:
    value = one(step.operand(0))
    return [without(value, along(value, [step.attribute("axis", 0)]), keep=bool(step.attribute("keepdims", 1)))]


@rule("Softmax-1 LogSoftmax-1 Hardmax-1")
def from_an_axis_on(step: Step) -> Outputs:
    """Along this axis and all that come after it, as if they were one."""
    value = one(step.operand(0))
    first = axis_of(value, step.attribute("axis", 1))
    along(value, list(range(first, value.rank)))
    return [value.plain()]


@rule("LpNormalization")
def norm(step: Step) -> Outputs:
    return along_an_axis(step)[:1]


@rule("CumSum")
def running(step: Step) -> Outputs:
    value = one(step.operand(0))
    along(value, fixed(step.operand(1)))
    return [value.plain()]


@rule("TopK")
def topk(step: Step) -> Outputs:
    value = one(step.operand(0))
    [axis] = along(value, [step.attribute("axis", -1)])
    [number] = whole(step.operand(1)) if step.operand(1) is not None else [Dim(step.attribute("k", 0))]
    if number is not None and number.counts_rows:
        raise Mixed
    dims = (*value.dims[:axis], number or step.new_symbol(), *value.dims[axis + 1 :])
    return [Value(dims, value.axis), Value(dims, value.axis)]


@rule("OneHot")
def one_hot(step: Step) -> Outputs:
    value = one(step.operand(0))
    constant(step.operand(1))
    constant(step.operand(2))
    at = axis_of(value, step.attribute("axis", -1), more=1)
    axis = None if value.axis is None else value.axis + (at <= value.axis)
    return [Value((*value.dims[:at], step.new_symbol(), *value.dims[at:]), axis)]


@rule("Trilu")
def trilu(step: Step) -> Outputs:
    constant(step.operand(1))
    return triangle(step)


@rule("Compress NonMaxSuppression NonZero Unique")
def sized_by_data(step: Step) -> Outputs:
    value = step.operand(0)
    if step.kind == "NonZero" and isinstance(value, Value) and value.is_constant:
        return [Value((Dim(value.rank), step.new_symbol()))]
    raise Mixed(sized_by_data=True)
