"""ONNX's layers that look at the neighbourhood of a picture's points, and those that make pictures larger or smaller.

The first axis is the batch by definition; all else is weights and sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

from pdserver.handlers.runtime.rowwise.dims import ONE, Dim, product, quotient
from pdserver.handlers.runtime.rowwise.layers import rows_first
from pdserver.handlers.runtime.rowwise.rules import Outputs, Step, rule
from pdserver.handlers.runtime.rowwise.value import Argument, Dims, Mixed, Number, Value, constant, one, whole

_BEGINS = 2
"""The first axis of a picture's points, after those of rows and channels."""


def _picture(step: Step) -> Value:
    rows_first(step.inputs[:1])
    value = one(step.operand(0))
    if value.rank <= _BEGINS:
        raise Mixed
    return value


def _made(value: Value, channels: Dim, points: Sequence[Dim]) -> Outputs:
    return [Value((value.dims[0], channels, *points), value.axis)]


@rule("Conv ConvInteger QLinearConv")
def conv(step: Step) -> Outputs:
    value = _picture(step)
    for other in step.inputs[1:]:
        constant(other)
    kernel = one(step.operand(3 if step.kind == "QLinearConv" else 1))
    return _made(value, kernel.dims[0], _windows(step, value, kernel.dims[_BEGINS:]))


@rule("AveragePool LpPool MaxPool")
def pool(step: Step) -> Outputs:
    """Of MaxPool's second output, which counts through all rows, nothing is known."""
    value = _picture(step)
    kernel = tuple(map(Dim, step.attribute("kernel_shape", [])))
    return _made(value, value.dims[1], _windows(step, value, kernel))


@rule("GlobalAveragePool GlobalLpPool GlobalMaxPool")
def pool_all(step: Step) -> Outputs:
    value = _picture(step)
    return _made(value, value.dims[1], (ONE,) * (value.rank - _BEGINS))


@rule("ConvTranspose")
def conv_transpose(step: Step) -> Outputs:
    value = _picture(step)
    for other in step.inputs[1:]:
        constant(other)
    kernel = one(step.operand(1)).dims
    group, channels = step.attribute("group", 1), kernel[1]
    return _made(value, product((channels, Dim(group))), _enlarged(step, value, kernel[_BEGINS:]))


@rule("DeformConv")
def deform_conv(step: Step) -> Outputs:
    value = _picture(step)
    rows_first([operand for at, operand in enumerate(step.inputs) if at in (0, 2, 4)])
    constant(step.operand(1))
    constant(step.operand(3))
    kernel = one(step.operand(1)).dims
    return _made(value, kernel[0], _windows(step, value, kernel[_BEGINS:]))


@rule("GridSample")
def grid_sample(step: Step) -> Outputs:
    rows_first(step.inputs[:2])
    value, grid = one(step.operand(0)), one(step.operand(1))
    return _made(value, value.dims[1], grid.dims[1:-1])


@rule("DepthToSpace SpaceToDepth")
def blocks(step: Step) -> Outputs:
    value, size = _picture(step), Dim(step.attribute("blocksize", 1))
    channels, height, width = value.dims[1:]
    area = product((size, size))
    if step.kind == "SpaceToDepth":
        return _made(value, product((channels, area)), [_quotient(step, length, size) for length in (height, width)])
    return _made(value, _quotient(step, channels, area), [product((length, size)) for length in (height, width)])


def _quotient(step: Step, length: Dim, divisor: Dim) -> Dim:
    return quotient(length, divisor) or step.new_symbol()


@rule("Resize Upsample")
def resize(step: Step) -> Outputs:
    value = one(step.operand(0))
    if step.attribute("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        raise Mixed
    scales, sizes = _scales(step), _if_given(step.operand(3))
    if sizes is not None and step.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Mixed
    dims = list(value.dims)
    given = sizes if sizes is not None else scales
    for at, number in zip(step.attribute("axes", None) or range(value.rank), given or (), strict=True):
        if number == (value.dims[at] if sizes is not None else ONE):
            continue
        if at == value.axis or (number is not None and number.counts_rows):
            raise Mixed
        dims[at] = _resized(step, dims[at], number, is_scale=sizes is None)
    return [Value(tuple(dims), value.axis)]


def _scales(step: Step) -> Sequence[Number] | None:
    if "scales" in step.attributes:
        return [Dim(int(scale)) if scale == int(scale) else None for scale in step.attribute("scales", [])]
    is_early = step.kind == "Upsample" or len(step.inputs) == 2
    return _if_given(step.operand(1 if is_early else 2))


def _if_given(operand: Argument) -> Sequence[Number] | None:
    """None for what is left out, or empty."""
    return None if operand is None else whole(operand) or None


def _resized(step: Step, length: Dim, number: Number, *, is_scale: bool) -> Dim:
    if number is None:
        return step.new_symbol()
    return product((length, number)) if is_scale else number


@rule("Pad")
def pad(step: Step) -> Outputs:
    """Without a part of the rows' axis."""
    value = one(step.operand(0))
    given = step.operand(1)
    pads = tuple(map(Dim, step.attribute("pads", []))) if given is None else whole(given)
    constant(step.operand(2))
    axes = whole(step.operand(3)) if step.operand(3) is not None else [Dim(at) for at in range(value.rank)]
    if any(axis is None for axis in axes) or len(pads) != 2 * len(axes):
        raise Mixed
    dims = list(value.dims)
    for axis, before, after in zip(axes, pads, pads[len(axes) :], strict=False):
        at = range(value.rank)[axis.number if axis is not None else 0]
        if before != Dim(0) or after != Dim(0):
            if at == value.axis or any(number is not None and number.counts_rows for number in (before, after)):
                raise Mixed
            dims[at] = _padded(step, dims[at], before, after)
    return [Value(tuple(dims), value.axis)]


def _padded(step: Step, length: Dim, *added: Number) -> Dim:
    if length.symbols or any(number is None or number.symbols for number in added):
        return step.new_symbol()
    return Dim(length.number + sum(number.number for number in added if number is not None))


# The lengths of what a window gives


def _windows(step: Step, value: Value, kernel: Dims) -> list[Dim]:
    """Of each axis of the points, how often the window fits."""
    points = value.dims[_BEGINS:]
    strides, dilations, pads = _steps(step, len(points))
    auto, ceil = step.attribute("auto_pad", "NOTSET"), step.attribute("ceil_mode", 0)
    found = []
    for at, (length, size) in enumerate(zip(points, kernel, strict=True)):
        if size.symbols or (length.symbols and strides[at] > 1):
            found.append(step.new_symbol())
            continue
        reach = dilations[at] * (size.number - 1)
        padding = reach if auto.startswith("SAME") else 0 if auto == "VALID" else pads[at] + pads[at + len(points)]
        left = padding - reach
        if strides[at] == 1 and (not left or not length.symbols):
            found.append(Dim(length.number + left, length.symbols))
        elif length.symbols:
            found.append(step.new_symbol())
        else:
            found.append(_fits(step, length.number, left, strides[at], auto=auto, ceil=bool(ceil)))
    return found


def _fits(step: Step, length: int, left: int, stride: int, *, auto: str, ceil: bool) -> Dim:
    if auto.startswith("SAME"):
        return Dim(-(-length // stride))
    if ceil and (length + left - 1) % stride:
        return step.new_symbol()  # whether the last window counts, runtimes decide in several ways
    return Dim((length + left - 1) // stride + 1)


def _enlarged(step: Step, value: Value, kernel: Dims) -> list[Dim]:
    points = value.dims[_BEGINS:]
    strides, dilations, pads = _steps(step, len(points))
    if (said := step.attribute("output_shape", None)) is not None:
        return [Dim(length) for length in said[-len(points) :]]
    more = step.attribute("output_padding", None) or [0] * len(points)
    is_same = step.attribute("auto_pad", "NOTSET").startswith("SAME")
    found = []
    for at, (length, size) in enumerate(zip(points, kernel, strict=True)):
        added = dilations[at] * (size.number - 1) + 1 + more[at] - strides[at] - pads[at] - pads[at + len(points)]
        if size.symbols or (length.symbols and added and not is_same):
            found.append(step.new_symbol())
        else:
            found.append(Dim(length.number * strides[at] + (0 if is_same else added), length.symbols))
    return found


def _steps(step: Step, count: int) -> tuple[list[int], list[int], list[int]]:
    """Strides and dilations of each axis, and what is added before each and after each."""
    strides = step.attribute("strides", None) or [1] * count
    dilations = step.attribute("dilations", None) or [1] * count
    return strides, dilations, step.attribute("pads", None) or [0] * (2 * count)
