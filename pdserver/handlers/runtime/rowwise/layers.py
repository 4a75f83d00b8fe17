"""The layers of networks, and what is made of pictures, sequences and boxes."""

from __future__ import annotations

from collections.abc import Sequence

from pdserver.handlers.runtime.rowwise.dims import Dim
from pdserver.handlers.runtime.rowwise.elementwise import broadcast
from pdserver.handlers.runtime.rowwise.rules import Outputs, Step, rule
from pdserver.handlers.runtime.rowwise.value import Argument, Mixed, Value, constant, one, rows_axis, several


@rule("matmul bmm")
def matmul(step: Step) -> Outputs:
    first, second = one(step.operand(0)), one(step.operand(1))
    if first.rank < 2 or second.rank < 2:
        raise Mixed
    turned = (step.attribute("transpose_x", False), step.attribute("transpose_y", False))
    return [multiplied(step, first, second, *turned)]


def multiplied(step: Step, first: Value, second: Value, turn_first: bool, turn_second: bool) -> Value:
    rank = max(first.rank, second.rank)
    height, width = (rank - 2, rank - 1)
    # Where each axis of an operand is in the result; None: it is summed over.
    places: set[int | None] = set()
    for value, turned, own, summed in ((first, turn_first, height, 1), (second, turn_second, width, 0)):
        if value.axis is None:
            continue
        at = value.axis - value.rank + 2
        if at < 0:
            places.add(value.axis + rank - value.rank)
        else:
            places.add(None if (at == summed) != turned else own)
    if None in places or len(places) > 1:
        raise Mixed
    outer = broadcast(step, [_outer(value) for value in (first, second)])
    dims = (*outer.dims, first.dims[-1 - (not turn_first)], second.dims[-1 - turn_second])
    if not places:
        return Value(dims)
    (place,) = places
    assert place is not None  # noqa: S101 - for the type checker
    if place < height and place != outer.axis:
        raise Mixed
    return Value(dims, place)


def _outer(value: Value) -> Value:
    """The axes of a stack of matrices."""
    return Value(value.dims[:-2], value.axis if value.axis is not None and value.axis < value.rank - 2 else None)


@rule("matmul_with_flatten")
def matmul_with_flatten(step: Step) -> Outputs:
    first, second = one(step.operand(0)), one(step.operand(1))
    constant(second)
    rows, columns = step.attribute("x_num_col_dims", 1), step.attribute("y_num_col_dims", 1)
    if first.axis is not None and first.axis >= rows:
        raise Mixed
    return [Value((*first.dims[:rows], *second.dims[columns:]), first.axis)]


@rule("fc linear weight_only_linear")
def linear(step: Step) -> Outputs:
    value = one(step.operand(0))
    for other in step.inputs[1:]:
        constant(other)
    if value.axis is not None and value.axis == value.rank - 1:
        raise Mixed
    return [step.along(value.axis, value.dims[value.axis]) if value.axis is not None else Value(step.dims())]


def rows_first(operands: Sequence[Argument]) -> Dim | None:
    """The number of rows, which these all have along their first axis; None when none has any. Raises Mixed."""
    values = [one(operand) for operand in operands if operand is not None]
    rows = {value.dims[0] for value in values if value.axis is not None}
    if any(value.axis not in (0, None) for value in values) or len(rows) > 1:
        raise Mixed
    if rows and any(value.axis is None for value in values):
        raise Mixed
    return rows.pop() if rows else None


def _outputs(step: Step, rows: Dim | None, count: int = 1) -> Outputs:
    """The first outputs, with the rows along their first axis."""
    return [Value(step.dims(i)) if rows is None else step.along(0, rows, i) for i in range(count)]


@rule(
    "conv2d depthwise_conv2d conv3d conv2d_transpose depthwise_conv2d_transpose conv3d_transpose conv2d_transpose_bias"
    " pool2d pool3d max_pool2d_with_index max_pool3d_with_index lp_pool2d lrn affine_channel instance_norm group_norm"
    " pixel_shuffle pixel_unshuffle channel_shuffle shuffle_channel space_to_depth unfold fold pad3d"
    " bilinear_interp nearest_interp bicubic_interp linear_interp trilinear_interp"
)
def of_pictures(step: Step) -> Outputs:
    """The first axis is the batch by definition; all else is weights and sizes."""
    rows = rows_first(step.inputs[:1])
    for other in step.inputs[1:]:
        constant(other)
    return _outputs(step, rows, min(len(step.shapes), 2) if step.kind.endswith("_with_index") else 1)


@rule("batch_norm sync_batch_norm")
def batch_norm(step: Step) -> Outputs:
    """With statistics of its own it is a scale; with those of the batch, it mixes rows, and learns them."""
    tests = step.attribute("is_test", False) and not step.attribute("trainable_statistics", False)
    if not (tests or step.attribute("use_global_stats", False)):
        raise Mixed
    step.writes = False
    return of_pictures(step)


@rule("layer_norm rms_norm")
def layer_norm(step: Step) -> Outputs:
    value = one(step.operand(0))
    for other in step.inputs[1:]:
        constant(other)
    begin = step.attribute("begin_norm_axis", 1)
    if value.axis is not None and value.axis >= (begin + value.rank if begin < 0 else begin):
        raise Mixed
    return [value.plain()]


@rule("deformable_conv")
def deformable_conv(step: Step) -> Outputs:
    constant(step.operand(2))
    return _outputs(step, rows_first([step.operand(0), step.operand(1), step.operand(3)]))


@rule("grid_sample")
def grid_sample(step: Step) -> Outputs:
    return _outputs(step, rows_first(step.inputs[:2]))


@rule("pad")
def pad(step: Step) -> Outputs:
    value = one(step.operand(0))
    paddings = step.attribute("paddings", [])
    if value.axis is not None and any(paddings[2 * value.axis : 2 * value.axis + 2]):
        raise Mixed
    for other in step.inputs[1:]:
        constant(other)
    return [Value(step.dims()) if value.axis is None else step.along(value.axis, value.dims[value.axis])]


@rule("flash_attn")
def attention(step: Step) -> Outputs:
    rows = rows_first(step.inputs[:3])
    for other in step.inputs[3:]:
        constant(other)
    return _outputs(step, rows)


@rule("rnn")
def rnn(step: Step) -> Outputs:
    """Steps first, then rows; so it is with the states of all layers. Each row has a length of its own."""
    value = one(step.operand(0))
    states = several(step.operand(1))
    for weight in several(step.operand(2)):
        constant(weight)
    rows = value.dims[rows_axis(value)]
    if not step.attribute("is_test", True) or rows_first([step.operand(3)]) not in (None, rows):
        raise Mixed
    if value.axis != 1 or any(state.dims[1] != rows or not (state.axis == 1 or state.uniform) for state in states):
        raise Mixed
    after = [step.along(1, rows, 2, item) for item in range(len(step.shapes[2]))]
    return [step.along(1, rows), Value(mixed=step.kind), after]


@rule("einsum")
def einsum(step: Step) -> Outputs:
    return [by_letters(step, several(step.operand(0)))]


def by_letters(step: Step, values: Sequence[Value]) -> Value:
    """The letter of the rows stays, and is on every operand that has rows, and on no other."""
    given, _, result = step.attribute("equation", "").replace(" ", "").partition("->")
    names = given.split(",")
    if "." in given or len(names) != len(values) or any(len(n) != v.rank for n, v in zip(names, values, strict=True)):
        raise Mixed
    letters = {name[value.axis] for name, value in zip(names, values, strict=True) if value.axis is not None}
    lengths = {letter: dim for n, v in zip(names, values, strict=True) for letter, dim in zip(n, v.dims, strict=True)}
    dims = tuple(lengths[letter] for letter in result)
    if not letters:
        return Value(dims)
    if len(letters) > 1:
        raise Mixed
    (letter,) = letters
    without = [name for name, value in zip(names, values, strict=True) if value.axis is None]
    if result.count(letter) != 1 or any(letter in name for name in without) or any(n.count(letter) > 1 for n in names):
        raise Mixed
    if len({value.dims[value.axis] for value in values if value.axis is not None}) > 1:
        raise Mixed
    return Value(dims, result.index(letter))


# Boxes


@rule("yolo_box")
def yolo_box(step: Step) -> Outputs:
    return _outputs(step, rows_first(step.inputs[:2]), 2)


@rule("box_coder")
def box_coder(step: Step) -> Outputs:
    prior, target = one(step.operand(0)), one(step.operand(2))
    constant(prior)
    constant(step.operand(1))
    encodes = "decode" not in str(step.attribute("code_type", ""))
    if encodes or step.attribute("axis", 0) != 0 or target.rank != 3:
        raise Mixed
    return _outputs(step, rows_first([target]))


@rule("multiclass_nms3 matrix_nms")
def boxes_of_all(step: Step) -> Outputs:
    """The boxes of all rows after each other, and how many of them each row has."""
    rows = rows_first(step.inputs[:2])
    if step.operand(2) is not None or rows is None:
        raise Mixed(sized_by_data=True)
    found = Value(mixed=step.kind, sized_by_data=True)
    return [found, found, step.along(0, rows, 2) if len(step.shapes) > 2 else found]


@rule("nonzero masked_select unique unique_consecutive nms generate_proposals")
def sized_by_data(step: Step) -> Outputs:
    raise Mixed(sized_by_data=True)
