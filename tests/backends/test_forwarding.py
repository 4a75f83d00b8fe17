"""What a worker answers to a pipeline goes on to the next worker as the file that it is in, and nothing stays open."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator

import numpy as np
import pytest

from pdserver.backends.base import Worker
from pdserver.backends.local import LocalBackend
from pdserver.configuration.model import ModelSpec
from pdserver.memory_file import THRESHOLD_BYTES, MemoryFile, file_of
from pdserver.pipeline.files import files_of, item, items_of_request
from pdserver.pipeline.values import Item, items_of
from pdserver.tensors import array
from pdserver.types import Answered, Part, RelayedRequest, Request, Tensor, Values
from pdserver.worker.environment import WorkerEnvironment
from tests.running import eventually, open_descriptors

ROWS = 8
STEP = """
import os
import numpy as np

class Step:
    def initialize(self, context):
        self.open = len(os.listdir("/proc/self/fd"))
    def handle(self, data, context):
        mapped = len(os.listdir("/proc/self/fd")) - self.open
        return [self.one(row, mapped) for row in data]
    def one(self, row, mapped):
        found = {"mapped": mapped}
        if "x" in row: found["y"] = row["x"] + 1
        if "picture" in row: found["picture"] = row["picture"]
        return found
"""
Scene = Callable[[Worker, Worker], Coroutine[None, None, None]]
Play = Callable[[Scene], None]


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Play]:
    """Plays scenes with two workers that run STEP, in a server of this process's own."""
    folder = tmp_path_factory.mktemp("step")
    (folder / "step.py").write_text(STEP)
    spec = ModelSpec(
        name="step", version="1", url="", directory=str(folder), handler="step.py:Step", manifest={}, model_config={},
        min_workers=1, max_workers=1, batch_size=ROWS,
    )  # fmt: skip
    backend = LocalBackend(WorkerEnvironment(str(folder / "tmp")))

    async def worker() -> Worker:
        spawned = await backend.spawn(spec)
        await spawned.load(spec, None)
        return spawned

    loop = asyncio.new_event_loop()
    try:
        workers = [loop.run_until_complete(worker()) for _ in range(2)]
        yield lambda scene: loop.run_until_complete(scene(*workers))
    finally:
        loop.run_until_complete(backend.close())
        loop.close()


async def ask(worker: Worker, requests: list[Request]) -> list[Values]:
    answered: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
    worker.serve(answered.set_result, lambda index, reply: None)
    worker.send(requests)
    await answered
    worker.serve(lambda answers: None, lambda index, reply: None)  # it has no reference to the answers then
    found: list[Values] = []
    for outcome in answered.result().outcomes:
        assert isinstance(outcome, Values), outcome
        found.append(outcome)
    return found


def asked(*items: Item) -> Request:
    """A node's request, whose inputs are called x or picture."""
    inputs, fds = files_of(items)
    return RelayedRequest("step", "1", "id", [_renamed(given) for given in inputs], files=fds, lists={})


def _renamed(given: Part | Tensor) -> Part | Tensor:
    name = "x" if isinstance(given, Tensor) else "picture"
    return type(given)(name, *(getattr(given, field) for field in given.__struct_fields__[1:]))


def large() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Of several rows, each small and all of them large."""
    return np.arange(THRESHOLD_BYTES // 2, dtype=np.float32).reshape(ROWS, -1)


def inline(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Item:
    return Item(Tensor("x", "float32", values.shape, values.tobytes()))


def mapped(reply: Values) -> bytes:
    [data] = [part.data for part in reply.parts if part.name == "mapped"]
    return data


def test_rows_of_one_file_are_passed_on_as_that_file(play: Play) -> None:
    async def scene(first: Worker, second: Worker) -> None:
        x = large()
        [reply] = await ask(first, [asked(inline(x))])
        whole = item(reply.tensors[0])
        assert isinstance(whole.owner, MemoryFile)
        assert (whole.fd, len(whole.given.data), whole.given.size) == (whole.owner.fd, 0, x.nbytes)
        rows = items_of(whole)
        answers = await ask(second, [asked(row) for row in rows if isinstance(row, Item)])
        assert [array(answer.tensors[0]).tolist() for answer in answers] == (x + 2).tolist()
        assert {mapped(answer) for answer in answers} == {b"1"}, "one file for all of the batch, mapped once"
        # Who asks for no pipeline keeps no descriptor but its mapping's.
        request = asked(inline(x))
        plain = Request("step", "1", "id", request.inputs, lists={})
        [reply] = await ask(first, [plain])
        assert file_of(reply.tensors[0].data) is None
        assert item(reply.tensors[0]).fd == -1

    play(scene)


def test_thousands_of_values_that_are_passed_on_leave_nothing_open(play: Play) -> None:
    async def scene(first: Worker, second: Worker) -> None:
        x, picture = large(), os.urandom(THRESHOLD_BYTES + 5)

        async def once() -> None:
            sent = MemoryFile([picture])  # as a client's body
            sent.seal()
            [body] = items_of_request([Part("body", "image/png", b"", 0, 2, len(picture) - 4)], [sent.fd], [sent])
            [reply] = await ask(first, [asked(inline(x), body)])
            del sent
            [part] = [part for part in reply.parts if part.name == "picture"]
            rows = [row for row in items_of(item(reply.tensors[0])) if isinstance(row, Item)]
            kept = item(part)
            del reply, part  # as the engine does: only the items stay
            answers = await ask(second, [asked(row, kept) for row in rows])
            assert {bytes(part.data) for answer in answers for part in answer.parts if part.name == "picture"} == {
                picture[2:-2]
            }
            assert answers[-1].tensors[0].data[-4:] == (x + 2).tobytes()[-4:]

        await once()
        pids = (os.getpid(), first.pid, second.pid)
        before = [len(open_descriptors(pid)) for pid in pids]
        for _ in range(130):
            await once()
        # A worker lets go of its last inputs a little after it has answered, then as now.
        eventually(lambda: all(len(open_descriptors(pid)) <= count for pid, count in zip(pids, before, strict=True)))

    play(scene)


def test_answers_are_copied_where_descriptors_are_short(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(first: Worker, second: Worker) -> None:
        x = large()
        monkeypatch.setattr("pdserver.system.descriptors.are_plenty", lambda fd: False)
        before = len(open_descriptors(os.getpid()))
        [reply] = await ask(first, [asked(inline(x))])
        whole = item(reply.tensors[0])
        assert (whole.fd, len(open_descriptors(os.getpid()))) == (-1, before)
        [reply] = await ask(second, [asked(whole)])
        assert np.array_equal(array(reply.tensors[0]), x + 2)

    play(scene)
