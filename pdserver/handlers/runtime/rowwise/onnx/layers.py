"""ONNX's products, norms, recurrent layers and quantized forms, and the models of ONNX-ML."""

from __future__ import annotations

from pdserver.handlers.runtime.rowwise.dims import ONE, Dim, product
from pdserver.handlers.runtime.rowwise.elementwise import broadcast, each_element
from pdserver.handlers.runtime.rowwise.layers import by_letters, matmul, multiplied, rows_first
from pdserver.handlers.runtime.rowwise.picking import taken
from pdserver.handlers.runtime.rowwise.rules import Outputs, Step, place_by_place, rule
from pdserver.handlers.runtime.rowwise.shaping import reshaped
from pdserver.handlers.runtime.rowwise.value import Argument, Mixed, Value, axis_of, constant, one, rows_axis, several

# Products


@rule("MatMul")
@place_by_place
def product_of_any(step: Step) -> Outputs:
    first, second = one(step.operand(0)), one(step.operand(1))
    if second.rank != 1:
        return matmul(step)
    constant(second)
    if first.rank < 2 or first.axis == first.rank - 1:
        raise Mixed
    return [Value(first.dims[:-1], first.axis)]


@rule("MatMulInteger QLinearMatMul")
def of_integers(step: Step) -> Outputs:
    """Scales and zeros of the first operand are the same for all its rows."""
    at = {"MatMulInteger": (0, 1, 2), "QLinearMatMul": (0, 3, 2)}[step.kind]
    first, second = (one(step.operand(place)) for place in at[:2])
    others = [operand for place, operand in enumerate(step.inputs) if place not in at[:2]]
    for operand in others:
        constant(operand)
    _single(step.operand(1) if step.kind == "QLinearMatMul" else None)
    _single(step.operand(at[2]))
    constant(second)
    return [multiplied(step, first, second, False, False)]


def _single(operand: Argument) -> None:
    """Raises Mixed for several elements."""
    if operand is not None and product(one(operand).dims) != ONE:
        raise Mixed


@rule("Gemm")
@place_by_place
def gemm(step: Step) -> Outputs:
    turned = (bool(step.attribute("transA", 0)), bool(step.attribute("transB", 0)))
    found = multiplied(step, one(step.operand(0)), one(step.operand(1)), *turned)
    added = step.operand(2)
    return [found if added is None else broadcast(step, [found, one(added)])]


@rule("Einsum")
def einsum(step: Step) -> Outputs:
    return [by_letters(step, several(step.inputs))]  # type: ignore[arg-type]


# Norms


@rule("BatchNormalization InstanceNormalization GroupNormalization LRN")
def norm_of_channels(step: Step) -> Outputs:
    """With statistics of its own, or of each row."""
    rows_first(step.inputs[:1])
    for other in step.inputs[1:]:
        constant(other)
    if step.attribute("training_mode", 0) or len(step.shapes) > 1:
        raise Mixed
    return [one(step.operand(0)).plain()]


@rule("LayerNormalization RMSNormalization")
def norm_of_last(step: Step) -> Outputs:
    value = one(step.operand(0))
    for other in step.inputs[1:]:
        constant(other)
    if value.axis is not None and value.axis >= axis_of(value, step.attribute("axis", -1)):
        raise Mixed
    return [value.plain()]


@rule("MeanVarianceNormalization")
def norm_of_axes(step: Step) -> Outputs:
    value = one(step.operand(0))
    if value.axis in [axis_of(value, axis) for axis in step.attribute("axes", [0, 2, 3])]:
        raise Mixed
    return [value.plain()]


# One step after the other


@rule("LSTM GRU RNN")
def recurrent(step: Step) -> Outputs:
    """Steps first, then rows; the states of all directions likewise. Each row has a length of its own."""
    value = one(step.operand(0))
    rows = value.dims[rows_axis(value)]
    for weight in (*step.inputs[1:4], step.operand(7)):
        constant(weight)
    if value.rank != 3 or value.axis != 1 or step.attribute("layout", 0):
        raise Mixed
    if rows_first([step.operand(4)]) not in (None, rows) or _is_constant(step.operand(4)):
        raise Mixed
    for state in (one(operand) for operand in step.inputs[5:7] if operand is not None):
        if state.dims[1] != rows or not (state.axis == 1 or state.uniform):
            raise Mixed
    weights = one(step.operand(2))
    directions, width = weights.dims[0], weights.dims[2]
    after = Value((directions, rows, width), 1)
    return [Value((value.dims[0], directions, rows, width), 2), after, after]


def _is_constant(operand: Argument) -> bool:
    return operand is not None and one(operand).is_constant


# Whole numbers for others


@rule("QuantizeLinear DequantizeLinear")
def quantized(step: Step) -> Outputs:
    """By a scale for all, or for each place along an axis that is not the rows'."""
    value, scale = one(step.operand(0)), one(step.operand(1))
    is_for_all = value.axis is None or product(scale.dims) == ONE
    if not is_for_all and (scale.rank != 1 or axis_of(value, step.attribute("axis", 1)) == value.axis):
        raise Mixed
    return each_element(step)


# ONNX-ML: tables of numbers, a row each


def _table(step: Step) -> Value:
    value = one(step.operand(0))
    if value.rank != 2 or value.axis != 0:
        raise Mixed
    return value


@rule("ai.onnx.ml.Scaler ai.onnx.ml.Normalizer ai.onnx.ml.Imputer ai.onnx.ml.Binarizer")
def prepared(step: Step) -> Outputs:
    return [_table(step).plain()]


@rule("ai.onnx.ml.LinearRegressor ai.onnx.ml.SVMRegressor ai.onnx.ml.TreeEnsembleRegressor")
def regressed(step: Step) -> Outputs:
    targets = step.attribute("targets", step.attribute("n_targets", 1))
    return [Value((_table(step).dims[0], Dim(targets)), 0)]


@rule("ai.onnx.ml.LinearClassifier ai.onnx.ml.SVMClassifier ai.onnx.ml.TreeEnsembleClassifier")
def classified(step: Step) -> Outputs:
    rows = _table(step).dims[0]
    return [Value((rows,), 0), Value((rows, step.new_symbol()), 0)]


@rule("ai.onnx.ml.ArrayFeatureExtractor")
def features(step: Step) -> Outputs:
    """Along the last axis, by numbers that are taken as a list."""
    value, index = one(step.operand(0)), one(step.operand(1))
    index = reshaped(step, index, (product(index.dims),))
    return [taken(value, index, axis_of(value, -1))]
