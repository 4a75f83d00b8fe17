"""The plain JSON of `generate` → tensors."""

from __future__ import annotations

import pytest

from pdserver.configuration.model import ModelSpec
from pdserver.dialects.oip.generate import read_generation
from pdserver.types import Interface, Port, Tensor

SPEC = ModelSpec(
    name="m", version="1", url="", directory="", handler="", manifest={}, model_config={}, min_workers=1,
    max_workers=1, batch_size=8,
)  # fmt: skip


def shape_of(value: object, port: Port, *, batched: bool) -> tuple[int, ...]:
    interface = Interface([port], [], batched=batched)
    [given] = read_generation(SPEC, interface, [], {"x": value}, "1").inputs
    assert isinstance(given, Tensor)
    return given.shape


@pytest.mark.parametrize(
    ("shape", "batched", "value", "expected"),
    [
        ((1, 1), False, [5], (1, 1)),
        ((1, 1), False, 5, (1, 1)),
        ((-1, 1, 1), True, [5], (1, 1, 1)),
        ((2, 3), False, [1, 2, 3, 4, 5, 6], (2, 3)),
        ((-1, 3), False, [1, 2, 3, 4, 5, 6], (2, 3)),
        ((-1, -1), True, [1, 2, 3], (1, 3)),
        ((-1, 2), True, [1, 2], (1, 2)),
        ((-1, 2), False, [[1, 2], [3, 4]], (2, 2)),
        ((-1, 2, 2), True, [[1, 2], [3, 4]], (1, 2, 2)),
    ],
)
def test_a_list_fills_the_shape_that_the_model_has(
    shape: tuple[int, ...], batched: bool, value: object, expected: tuple[int, ...]
) -> None:
    assert shape_of(value, Port("x", "int64", shape), batched=batched) == expected
