"""Puts ONNX models together at random, and tries each with ONNX Runtime."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tests.onnx_files import FLOAT, INT64, Value, attribute, model, node, weights

Array = NDArray[Any]
ROWS = 3
_RANKS = ((), (4,), (4, 6))
"""Of what a row has in the inputs."""
_SHAPES = ([-1], [-1, 2], [0, -1], [-1, 24], [4, -1], [0, 0, -1], [1, -1], [-1, 1, 4], [0, 2, 2], [-1, 6, 4])


class Maker:
    """Grows a model, an operation at a time; those that ONNX Runtime refuses are left out again."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        inner = self.random.choice(_RANKS[1:])
        self.inputs: list[Value] = [("x", FLOAT, ["n", *inner]), ("ids", INT64, ["n", 4])]
        self.given: dict[str, Array] = {
            "x": self.numbers.normal(size=(ROWS, *inner)).astype(np.float32),
            "ids": self.numbers.integers(0, 4, (ROWS, 4)),
        }
        self.nodes: list[tuple[Sequence[str], Sequence[str], bytes]] = []
        """What each takes and makes, and what is written of it."""
        self.held: list[bytes] = []
        self.ranks = {name: array.ndim for name, array in self.given.items()}
        self.kinds = {name: array.dtype.kind for name, array in self.given.items()}
        self.results: list[str] = []
        steps = [getattr(self, name) for name in dir(self) if name.startswith("do_")]
        for _ in range(self.random.randint(2, 9)):
            self._try(self.random.choice(steps))

    def _try(self, step: Callable[[], str]) -> None:
        before = len(self.nodes), len(self.held)
        try:
            made = step()
            [found] = self.run(made, range(ROWS))
        except Exception:  # what cannot be put together, or run
            del self.nodes[before[0] :], self.held[before[1] :]
            return
        if found.ndim <= 5 and found.size and found.dtype.kind in "fi":
            self.results.append(made)
            self.ranks[made], self.kinds[made] = found.ndim, found.dtype.kind
        else:
            del self.nodes[before[0] :], self.held[before[1] :]

    def data(self, outputs: Sequence[str]) -> bytes:
        kinds = {"f": FLOAT, "i": INT64}
        values: list[Value] = [
            (
                name,
                kinds[self.kinds.get(name, "f")],
                ["n", *[""] * (self.ranks.get(name, 1) - 1)][: self.ranks.get(name)],
            )
            for name in outputs
        ]
        return model(self.inputs, values, [written for _, _, written in self.nodes], self.held)

    def run(self, output: str, *batches: Sequence[int]) -> list[Array]:
        """What the model gives for each of these batches of rows. Raises what ONNX Runtime does."""
        data = model(self.inputs, [(output, 0, None)], self._needed(output), self.held)
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        every = [{name: array[list(rows)] for name, array in self.given.items()} for rows in batches]
        return [session.run(None, {port.name: given[port.name] for port in session.get_inputs()})[0] for given in every]

    def _needed(self, output: str) -> list[bytes]:
        """The operations without which it can't be made; ONNX Runtime would run others, too."""
        wanted, found = {output}, list[bytes]()
        for taken, made, written in reversed(self.nodes):
            if wanted.intersection(made):
                wanted.update(taken)
                found.insert(0, written)
        return found

    def one(self, rank: int | None = None, kind: str = "f") -> str:
        fits = [name for name in self.ranks if self.kinds[name] == kind and rank in (None, self.ranks[name])]
        return self.random.choice(fits)

    def two(self) -> list[str]:
        return [self.one(), self.one()]

    def axis(self, name: str, *, more: int = 0) -> int:
        axis = self.random.randrange(self.ranks[name] + more)
        return axis - self.ranks[name] - more if self.random.random() < 0.4 else axis

    def add(self, kind: str, inputs: Sequence[str], *attributes: bytes, outputs: int = 1) -> str:
        made = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append((inputs, made, node(kind, inputs, made, *attributes)))
        return self.random.choice(made)

    def constant(self, *values: int) -> str:
        return self.array(np.array(values, np.int64))

    def array(self, array: Array) -> str:
        name = f"w{len(self.held)}"
        self.held.append(weights(name, array))
        return name

    def table(self, *shape: int) -> str:
        return self.array(self.numbers.normal(size=shape).astype(np.float32))

    def chance(self) -> bool:
        return self.random.random() < 0.5

    def rows(self) -> str:
        """How many there are, if the tensor has them first."""
        return self.add("Gather", [self.add("Shape", [self.one()]), self.constant(0)])

    # Each element, or those in the same place

    def do_unary(self) -> str:
        kinds = ("Relu", "Tanh", "Sigmoid", "Erf", "Abs", "Identity", "Neg", "Softplus", "Clip", "Dropout")
        return self.add(self.random.choice(kinds), [self.one()])

    def do_binary(self) -> str:
        return self.add(self.random.choice(("Add", "Mul", "Max", "Sub", "Mean")), self.two())

    def do_binary_with_constant(self) -> str:
        shape = self.random.choice(((4,), (6,), (1, 4), (3, 1), (4, 6), (3, 4, 6), (1, 4, 1)))
        return self.add(self.random.choice(("Add", "Mul", "PRelu")), [self.one(), self.table(*shape)])

    def do_where(self) -> str:
        return self.add("Where", [self.add("Greater", self.two()), *self.two()])

    def do_one_hot(self) -> str:
        values = self.array(np.array([0, 1], np.float32))
        ids = self.one(kind="i")
        return self.add("OneHot", [ids, self.constant(4), values], attribute("axis", self.axis(ids, more=1)))

    def do_cast(self) -> str:
        return self.add("Cast", [self.one(kind="i")], attribute("to", FLOAT))

    # Along an axis

    def do_reduce(self) -> str:
        name, kind = self.one(), self.random.choice(("ReduceMax", "ReduceMean", "ReduceL2", "ReduceLogSumExp"))
        return self.add(kind, [name], attribute("axes", [self.axis(name)]), attribute("keepdims", int(self.chance())))

    def do_reduce_sum(self) -> str:
        name = self.one()
        return self.add("ReduceSum", [name, self.constant(self.axis(name))], attribute("keepdims", int(self.chance())))

    def do_reduce_all(self) -> str:
        return self.add("ReduceMax", [self.one()], attribute("keepdims", int(self.chance())))

    def do_softmax(self) -> str:
        name, kind = self.one(), self.random.choice(("Softmax", "LogSoftmax"))
        return self.add(kind, [name], attribute("axis", self.axis(name)))

    def do_along(self) -> str:
        name, kind = self.one(), self.random.choice(("Hardmax", "LpNormalization"))
        return self.add(kind, [name], attribute("axis", self.axis(name)))

    def do_cumsum(self) -> str:
        name = self.one()
        return self.add("CumSum", [name, self.constant(self.axis(name))])

    def do_topk(self) -> str:
        name = self.one()
        return self.add("TopK", [name, self.constant(1)], attribute("axis", self.axis(name)), outputs=2)

    def do_argmax(self) -> str:
        name = self.one()
        keep = attribute("keepdims", int(self.chance()))
        return self.add("ArgMax", [name], attribute("axis", self.axis(name)), keep)

    def do_norm(self) -> str:
        name = self.one(3)
        kind = self.random.choice(("InstanceNormalization", "MeanVarianceNormalization", "LRN", "BatchNormalization"))
        tables = {"InstanceNormalization": 2, "BatchNormalization": 4}.get(kind, 0)
        size = [attribute("size", 3)] if kind == "LRN" else []
        return self.add(kind, [name, *(self.array(np.ones(4, np.float32)) for _ in range(tables))], *size)

    # Layers

    def do_conv(self) -> str:
        return self.add("Conv", [self.one(3), self.table(2, 4, 3)], attribute("pads", [1, self.random.randrange(2)]))

    def do_pool(self) -> str:
        kind = self.random.choice(("MaxPool", "AveragePool"))
        strides = attribute("strides", [self.random.choice((1, 2))])
        return self.add(kind, [self.one(3)], attribute("kernel_shape", [2]), strides, outputs=1 + (kind == "MaxPool"))

    def do_pool_all(self) -> str:
        return self.add("GlobalAveragePool", [self.one(3)])

    def do_resize(self) -> str:
        scales = self.array(np.array(self.random.choice(([1, 1, 2], [1, 2, 1], [2, 1, 1])), np.float32))
        return self.add("Resize", [self.one(3), "", scales])

    def do_pad(self) -> str:
        name = self.one()
        pads = [self.random.choice((0, 0, 1)) for _ in range(2 * self.ranks[name])]
        return self.add("Pad", [name, self.constant(*pads)])

    def do_gemm(self) -> str:
        turned = attribute("transA", int(self.chance()))
        return self.add("Gemm", [self.one(2), self.table(self.random.choice((3, 4, 6)), 4)], turned)

    def do_matmul(self) -> str:
        return self.add("MatMul", self.two())

    def do_matmul_by_constant(self) -> str:
        both = [self.one(), self.table(self.random.choice((4, 6)), 4)]
        return self.add("MatMul", both if self.chance() else both[::-1])

    def do_einsum(self) -> str:
        equation = self.random.choice(("abc,abd->acd", "abc,adc->abd", "abc,dbc->ad", "abc,abc->bc", "abc,abd->cad"))
        text = b"\x0a\x08equation" + bytes([0x22, len(equation)]) + equation.encode() + b"\xa0\x01\x03"
        return self.add("Einsum", [self.one(3), self.one(3)], text)

    def do_recurrent(self) -> str:
        name = self.one(3)
        size = self.random.choice((4, 6))
        return self.add(
            "RNN", [name, self.table(1, 2, size), self.table(1, 2, 2)], attribute("hidden_size", 2), outputs=2
        )

    # Elsewhere

    def do_transpose(self) -> str:
        name = self.one()
        order = self.random.sample(range(self.ranks[name]), self.ranks[name])
        return self.add("Transpose", [name], *([attribute("perm", order)] if self.chance() else []))

    def do_reshape(self) -> str:
        return self.add("Reshape", [self.one(), self.constant(*self.random.choice(_SHAPES))])

    def do_reshape_by_rows(self) -> str:
        parts = [self.add("Unsqueeze", [self.rows(), self.constant(0)]), self.constant(-1)]
        if self.chance():
            parts.insert(self.random.randrange(3), self.constant(2))
        if self.chance():
            parts.reverse()
        return self.add("Reshape", [self.one(), self.add("Concat", parts, attribute("axis", 0))])

    def do_flatten(self) -> str:
        name = self.one()
        return self.add("Flatten", [name], attribute("axis", self.axis(name)))

    def do_fold(self) -> str:
        """Rows within another axis for a while, as PyTorch's attention has them."""
        name = self.one(3)
        folded = self.add("Reshape", [name, self.constant(-1, self.random.choice((4, 6)))])
        multiplied = self.add("MatMul", [folded, self.table(self.random.choice((4, 6)), 4)])
        return self.add("Reshape", [multiplied, self.add("Shape", [name])])

    def do_squeeze(self) -> str:
        name = self.one()
        return self.add("Squeeze", [name, *([self.constant(self.axis(name))] if self.chance() else [])])

    def do_unsqueeze(self) -> str:
        return self.add(
            "Unsqueeze", [self.one(), self.constant(*self.random.choice(([0], [1], [-1], [0, 2], [0, -1])))]
        )

    def do_expand(self) -> str:
        parts = [self.add("Unsqueeze", [self.rows(), self.constant(0)]), self.constant(1, 1)]
        shape = self.add("Concat", parts, attribute("axis", 0)) if self.chance() else self.constant(2, 1, 1)
        return self.add("Expand", [self.one() if self.chance() else self.table(1, 4, 6), shape])

    def do_tile(self) -> str:
        name = self.one()
        return self.add(
            "Tile", [name, self.constant(*(self.random.choice((1, 1, 2)) for _ in range(self.ranks[name])))]
        )

    def do_slice(self) -> str:
        name = self.one()
        start, end, by = self.random.choice(((0, 1, 1), (1, 9, 1), (0, 2**62, 1), (-1, -9, -1), (0, -1, 1), (0, 9, 2)))
        return self.add("Slice", [name, *map(self.constant, (start, end, self.axis(name), by))])

    def do_concat(self) -> str:
        first = self.one()
        return self.add("Concat", [first, self.one(self.ranks[first])], attribute("axis", self.axis(first)))

    def do_split(self) -> str:
        name = self.one()
        return self.add("Split", [name], attribute("axis", self.axis(name)), outputs=self.random.choice((2, 3)))

    def do_gather(self) -> str:
        name = self.one()
        index = self.constant(0, 1) if self.chance() else self.array(np.array(0, np.int64))
        return self.add("Gather", [name, index], attribute("axis", self.axis(name)))

    def do_embedding(self) -> str:
        return self.add("Gather", [self.table(4, 3), self.one(kind="i")])

    def do_gather_elements(self) -> str:
        name = self.one(2)
        return self.add("GatherElements", [name, "ids"], attribute("axis", self.axis(name)))

    def do_gather_nd(self) -> str:
        index = self.add("Unsqueeze", [self.one(kind="i"), self.constant(-1)])
        return self.add("GatherND", [self.one() if self.chance() else self.table(4, 3), index],
                        attribute("batch_dims", self.random.randrange(2)))  # fmt: skip

    # Of numbers of rows, and what depends on the data

    def do_divide_by_rows(self) -> str:
        return self.add("Div", [self.one(), self.add("Cast", [self.rows()], attribute("to", FLOAT))])

    def do_place(self) -> str:
        zero, by = (self.array(np.array(number, np.int64)) for number in (0, 1))
        places = self.add("Cast", [self.add("Range", [zero, self.rows(), by])], attribute("to", FLOAT))
        name = self.one()
        shape = self.constant(-1, *[1] * (self.ranks[name] - 1))
        return self.add("Add", [name, self.add("Reshape", [places, shape])])

    def do_full(self) -> str:
        shape = [self.add("Unsqueeze", [self.rows(), self.constant(0)]), self.constant(4)]
        return self.add("ConstantOfShape", [self.add("Concat", shape, attribute("axis", 0))])

    def do_nonzero(self) -> str:
        return self.add("NonZero", [self.one()])


def is_rows(made: Maker, output: str) -> bool:
    """Whether the model gives for a batch, in any order, what it gives for each row by itself."""
    turned = [2, 0, 1]
    try:
        together, other, *alone = made.run(output, range(ROWS), turned, *([row] for row in range(ROWS)))
    except Exception:  # it cannot run with one row
        return False
    if any(one.shape[:1] != (1,) for one in alone):
        return False
    return _alike(together, np.concatenate(alone)) and _alike(other, together[turned])


def _alike(some: Array, other: Array) -> bool:
    same = some.ndim > 0 and some.shape == other.shape
    return same and bool(np.allclose(some, other, rtol=1e-3, atol=1e-4, equal_nan=True))
