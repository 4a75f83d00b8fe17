"""Puts programs together at random, and tries each: `python random_models.py FOLDER COUNT`.

found.json says of each output whether the model gave for a batch what it gives for each row by itself. Paddle aborts on
some of what it is asked for: the programs behind such a one are tried by another process.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import paddle
from paddle import inference
from paddle.nn import functional as F  # noqa: N812 - as everybody calls it

Tensor = Any
ROWS = 3
SHAPES = (
    [-1],
    [-1, 2],
    [0, -1],
    [-1, 24],
    [4, -1],
    [0, 0, -1],
    [2, -1, 3],
    [1, -1],
    [-1, 1, 4],
    [-1, 2, 2],
    [-1, 6, 4],
)
EQUATIONS = ("abc,abd->acd", "abc,adc->abd", "abc,dbc->ad", "abc,abc->bc", "abc,abd->cad")
SLICES: Sequence[Callable[[Tensor], Tensor]] = (
    lambda t: t[:, 0], lambda t: t[0], lambda t: t[:, -1], lambda t: t[..., :2], lambda t: t[1:], lambda t: t[::2],
    lambda t: t[:, ::2], lambda t: t[:, : paddle.shape(t)[0]],
)  # fmt: skip


class Maker:
    """Grows a pool of tensors."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        rank = self.random.choice([2, 3, 3])
        self.inputs = [paddle.static.data("x", [-1, 4, 6][:rank], "float64")]
        if self.random.random() < 0.3:
            self.inputs.append(paddle.static.data("y", [-1, 6], "float64"))
        self.pool = list(self.inputs)
        steps = [getattr(self, name) for name in dir(self) if name.startswith("do_")]
        for _ in range(self.random.randint(1, 7)):
            try:
                made = self.random.choice(steps)()
            except Exception:
                continue
            if len(made.shape) <= 5:
                self.pool.append(made)
        self.outputs = self.pool[len(self.inputs) :][-3:] or [self.inputs[0] * 1]

    def one(self, rank: int | None = None) -> Tensor:
        return self.random.choice([tensor for tensor in self.pool if rank in (None, len(tensor.shape))])

    def axis(self, tensor: Tensor) -> int:
        axis = self.random.randrange(len(tensor.shape))
        return axis - len(tensor.shape) if self.random.random() < 0.4 else axis

    def chance(self) -> bool:
        return self.random.random() < 0.5

    def small(self) -> Tensor:
        return paddle.clip(self.one(), 0, 3).astype("int64")

    def table(self) -> Tensor:
        return paddle.arange(12, dtype="float64").reshape([4, 3])

    def rows(self) -> Tensor:
        return paddle.shape(self.one())[0]

    # Each element, or those in the same place

    def do_unary(self) -> Tensor:
        choices = (
            F.relu,
            paddle.tanh,
            F.sigmoid,
            F.gelu,
            paddle.abs,
            paddle.ones_like,
            paddle.assign,
            lambda t: t * 2 + 1,
        )
        return self.random.choice(choices)(self.one())

    def do_binary(self) -> Tensor:
        choices = (paddle.add, paddle.multiply, paddle.maximum, paddle.subtract)
        return self.random.choice(choices)(self.one(), self.one())

    def do_where(self) -> Tensor:
        return paddle.where(self.one() > 0, self.one(), self.one())

    def do_constant(self) -> Tensor:
        shape = self.random.choice([[4], [6], [2, 4], [6, 1], [1, 1, 4]])
        count = int(np.prod(shape))
        return paddle.ones(shape) if self.chance() else paddle.arange(count, dtype="float64").reshape(shape)

    def do_one_hot(self) -> Tensor:
        return F.one_hot(self.small(), 4).astype("float64")

    # Along an axis

    def do_reduce(self) -> Tensor:
        tensor, how = self.one(), self.random.choice([paddle.sum, paddle.mean, paddle.max, paddle.logsumexp])
        return how(tensor, axis=self.axis(tensor), keepdim=self.chance())

    def do_reduce_all(self) -> Tensor:
        return paddle.sum(self.one())

    def do_along(self) -> Tensor:
        tensor = self.one()
        choices: Sequence[Callable[[Tensor, int], Tensor]] = (
            F.softmax, F.log_softmax, paddle.cumsum, paddle.sort, paddle.flip, lambda t, a: paddle.roll(t, 1, a),
            lambda t, a: paddle.argsort(t, a).astype("float64"), lambda t, a: paddle.topk(t, 1, a)[0],
            lambda t, a: paddle.argmax(t, a, keepdim=self.chance()).astype("float64"),
            lambda t, a: paddle.norm(t, axis=a),
        )  # fmt: skip
        return self.random.choice(choices)(tensor, self.axis(tensor))

    def do_layer(self) -> Tensor:
        tensor = self.one()
        if self.chance():
            return F.layer_norm(tensor, [tensor.shape[-1]])
        return F.batch_norm(tensor, paddle.zeros([tensor.shape[1]]), paddle.ones([tensor.shape[1]]))

    def do_pool(self) -> Tensor:
        return F.avg_pool1d(self.one(3), 2)

    def do_conv(self) -> Tensor:
        tensor = self.one(3)
        return F.conv1d(tensor, paddle.ones([2, tensor.shape[1], 1]))

    # Products

    def do_matmul(self) -> Tensor:
        return paddle.matmul(self.one(), self.one(), self.chance(), self.chance())

    def do_matmul_by_constant(self) -> Tensor:
        tensor = self.one()
        return paddle.matmul(tensor, paddle.arange(3 * tensor.shape[-1], dtype="float64").reshape([-1, 3]))

    def do_matmul_of_constant(self) -> Tensor:
        tensor = self.one()
        return paddle.matmul(paddle.ones([2, tensor.shape[-2]]), tensor)

    def do_einsum(self) -> Tensor:
        return paddle.einsum(self.random.choice(EQUATIONS), self.one(3), self.one(3))

    # Elsewhere

    def do_transpose(self) -> Tensor:
        tensor = self.one()
        return paddle.transpose(tensor, self.random.sample(range(len(tensor.shape)), len(tensor.shape)))

    def do_reshape(self) -> Tensor:
        return paddle.reshape(self.one(), self.random.choice(SHAPES))

    def do_reshape_by_rows(self) -> Tensor:
        rows = self.rows()
        return paddle.reshape(self.one(), self.random.choice([[rows, -1], [-1, rows], [rows * 2, -1], [rows, 2, -1]]))

    def do_flatten(self) -> Tensor:
        tensor = self.one()
        return paddle.flatten(tensor, *sorted(self.random.sample(range(len(tensor.shape)), 2)))

    def do_squeeze(self) -> Tensor:
        tensor = self.one()
        return paddle.squeeze(tensor, self.axis(tensor))

    def do_unsqueeze(self) -> Tensor:
        return paddle.unsqueeze(self.one(), self.random.choice([0, 1, -1, [0, 1]]))

    def do_expand(self) -> Tensor:
        tensor = self.one()
        more = self.random.choice([[], [2], [self.rows()]])
        return paddle.expand(tensor, [*more, *[-1] * len(tensor.shape)])

    def do_expand_first(self) -> Tensor:
        tensor = self.one()
        return paddle.expand(tensor, [self.rows(), *[-1] * (len(tensor.shape) - 1)])

    def do_expand_as(self) -> Tensor:
        return paddle.expand_as(self.one(), self.one())

    def do_tile(self) -> Tensor:
        return paddle.tile(self.one(), self.random.choice([[2], [1, 2], [2, 1], [2, 1, 1], [self.rows(), 1]]))

    def do_slice(self) -> Tensor:
        return self.random.choice(SLICES)(self.one())

    def do_concat(self) -> Tensor:
        first = self.one()
        return paddle.concat([first, self.one()], axis=self.axis(first))

    def do_stack(self) -> Tensor:
        tensor = self.one()
        return paddle.stack([tensor, tensor * 2], axis=self.random.randrange(len(tensor.shape) + 1))

    def do_split(self) -> Tensor:
        tensor = self.one()
        return self.random.choice(paddle.split(tensor, 2, axis=self.axis(tensor)))

    def do_gather(self) -> Tensor:
        tensor = self.one()
        return paddle.gather(tensor, paddle.zeros([3], "int64"), axis=self.random.randrange(len(tensor.shape)))

    def do_embedding(self) -> Tensor:
        return F.embedding(self.small(), self.table())

    def do_gather_by_rows(self) -> Tensor:
        return paddle.gather(self.table(), self.small().flatten())

    def do_gather_nd(self) -> Tensor:
        return paddle.gather_nd(self.table(), self.small()[..., :1])

    def do_take_along_axis(self) -> Tensor:
        tensor = self.one()
        return paddle.take_along_axis(tensor, paddle.argsort(tensor, axis=-1), axis=self.axis(tensor))

    # Of numbers of rows, and what depends on the data

    def do_divide_by_rows(self) -> Tensor:
        return self.one() / self.rows().astype("float64")

    def do_place(self) -> Tensor:
        tensor = self.one()
        places = paddle.arange(0, paddle.shape(tensor)[0]).astype("float64")
        return tensor + places.reshape([-1] + [1] * (len(tensor.shape) - 1))

    def do_full(self) -> Tensor:
        return paddle.full([self.rows(), 3], 1.5)

    def do_decide(self) -> Tensor:
        tensor = self.one()
        return paddle.static.nn.cond(tensor.sum() > 0, lambda: tensor * 2, lambda: tensor - 1)

    def do_nonzero(self) -> Tensor:
        return paddle.nonzero(self.one() > 0).astype("float64")

    def do_masked_select(self) -> Tensor:
        tensor = self.one()
        return paddle.masked_select(tensor, tensor > 0)

    def do_set(self) -> Tensor:
        """In place, as exported programs do it."""
        place = (slice(None), 0) if self.chance() else 0
        return paddle.static.setitem(self.one(), place, 0.0 if self.chance() else 1.0)


def try_one(seed: int, path: Path) -> dict[str, bool]:
    """The outputs of a program that can be saved and run."""
    main = paddle.static.Program()
    with paddle.static.program_guard(main, paddle.static.Program()):
        made = Maker(seed)
        executor = paddle.static.Executor(paddle.CPUPlace())
        paddle.static.save_inference_model(str(path.with_suffix("")), made.inputs, made.outputs, executor, program=main)
    config = inference.Config(str(path), "")
    config.disable_gpu()
    config.disable_mkldnn()
    config.disable_glog_info()
    predictor = inference.create_predictor(config)
    numbers = np.random.default_rng(seed)
    given = {t.name: numbers.normal(size=[ROWS, *t.shape[1:]]).astype(np.float64) for t in made.inputs}
    names = predictor.get_output_names()

    def run(rows: list[int]) -> list[Any]:
        for name, array in given.items():
            predictor.get_input_handle(name).copy_from_cpu(np.ascontiguousarray(array[rows]))
        predictor.run()
        return [predictor.get_output_handle(name).copy_to_cpu() for name in names]

    turned = [2, 0, 1]
    together, other, alone = run([0, 1, 2]), run(turned), [run([i]) for i in range(ROWS)]

    def is_rows(i: int) -> bool:
        if any(one[i].shape[:1] != (1,) for one in alone):
            return False
        return alike(together[i], np.concatenate([one[i] for one in alone])) and alike(other[i], together[i][turned])

    return {name: is_rows(i) for i, name in enumerate(names)}


def alike(some: Any, other: Any) -> bool:
    return (
        some.ndim > 0 and some.shape == other.shape and np.allclose(some, other, rtol=1e-3, atol=1e-4, equal_nan=True)
    )


def main(folder: Path, count: int) -> None:
    paddle.enable_static()
    paddle.set_default_dtype("float64")  # so that what rounding does is far from what neighbours do
    results = [folder / f"m{seed}.found" for seed in range(count)]
    seed = 0
    while seed < count:
        child = os.fork()
        if not child:
            try_them(results[seed:], seed)
        os.waitpid(child, 0)
        seed = 1 + next((lost for lost in range(seed, count) if not results[lost].exists()), count)
    found = {path.with_suffix(".json").name: json.loads(path.read_text()) for path in results if path.exists()}
    (folder / "found.json").write_text(json.dumps({name: outputs for name, outputs in found.items() if outputs}))


def try_them(results: Sequence[Path], seed: int) -> NoReturn:
    """Ends this process; Paddle may have ended it before."""
    for number, path in enumerate(results, seed):
        outputs = None
        with contextlib.suppress(Exception):  # what cannot be saved, or run
            outputs = try_one(number, path.with_suffix(".json"))
        path.write_text(json.dumps(outputs))
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
