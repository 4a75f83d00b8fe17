"""What controllers rely on of every `Node`: the real one and the fake pass the same tests."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import pytest

from pdserver.cluster.base import Archive, CopyStatus, Holder, Node, NodeStatus, Placed, Target
from pdserver.errors import PdError
from pdserver.peers.base import Peers
from pdserver.types import ModelRef

A1, A2, B1 = ModelRef("a", "1.0"), ModelRef("a", "2.0"), ModelRef("b", "1.0")


class Bench:
    """A node to be tested, and archives for it. Those of one version are equal in nothing but their names."""

    node: Node
    holder: Holder

    def archive(self, ref: ModelRef, *, other: bool = False, broken: bool = False) -> Archive:
        """`other`: another one of the same version. `broken`: it can't be loaded."""
        raise NotImplementedError


def told(revision: int, *copies: Placed, archives: frozenset[str] = frozenset()) -> Target:
    return Target(revision, copies, Peers("n1", {}, ()), archives)


def copy(
    ref: ModelRef,
    archive: Archive,
    *,
    default: bool = False,
    workers: int | None = 1,
    needs: tuple[ModelRef, ...] = (),
) -> Placed:
    return Placed(ref=ref, archive=archive, default=default, workers=workers, needs=needs)


async def settled(node: Node, *refs: ModelRef) -> dict[ModelRef, CopyStatus]:
    """The copies, once there are these alone, and each is ready or has a problem."""
    for _ in range(1200):
        found = {copy.ref: copy for copy in (await node.status()).copies}
        if set(found) == set(refs) and all(copy.ready or copy.problem for copy in found.values()):
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"it does not settle: {found}")


def state(status: NodeStatus, ref: ModelRef) -> CopyStatus:
    return next(copy for copy in status.copies if copy.ref == ref)


class NodeContract:
    def bench(self) -> AbstractAsyncContextManager[Bench]:
        raise NotImplementedError

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        raise NotImplementedError

    def test_it_serves_what_it_is_told_and_nothing_else(self) -> None:
        async def work() -> None:
            async with self.bench() as bench:
                node, [one, two] = bench.node, [bench.archive(A1), bench.archive(A2)]
                assert ((await node.status()).revision, (await node.status()).copies) == (0, ())
                lacking = await node.apply(told(1, copy(A1, one)))
                assert lacking.revision == 1
                assert "lacks" in (await settled(node, A1))[A1].problem
                for archive in (one, two):
                    await node.fetch(archive, bench.holder)
                    await node.fetch(archive, bench.holder)
                assert {one.sha256, two.sha256} <= set((await node.status()).archives)
                await node.apply(told(2, copy(A1, one, default=True), copy(A2, two)))
                assert all(copy.ready for copy in (await settled(node, A1, A2)).values())
                # Told the same again, it goes on, also by another default.
                same = await node.apply(told(3, copy(A1, one), copy(A2, two, default=True)))
                assert state(same, A1).ready
                assert state(same, A2).ready
                old = await node.apply(told(2))
                assert old.revision == 3, "an older target is left alone"
                await settled(node, A1, A2)
                await node.apply(told(3, copy(A2, two)))
                await settled(node, A2)
                await node.apply(told(4))
                await settled(node)

        self.run(work())

    def test_a_copy_with_another_archive_is_not_ready_before_that_serves(self) -> None:
        async def work() -> None:
            async with self.bench() as bench:
                node, [one, other] = bench.node, [bench.archive(A1), bench.archive(A1, other=True)]
                await node.fetch(one, bench.holder)
                await node.fetch(other, bench.holder)
                await node.apply(told(1, copy(A1, one), archives=frozenset([other.sha256])))
                first = (await settled(node, A1))[A1]
                assert first.ready, first.problem
                begun = await node.apply(told(2, copy(A1, other)))
                assert not state(begun, A1).ready
                second = (await settled(node, A1))[A1]
                assert second.ready, second.problem

        self.run(work())

    def test_what_can_not_be_loaded_has_a_problem_and_the_rest_serves(self) -> None:
        async def work() -> None:
            async with self.bench() as bench:
                node, [good, bad] = bench.node, [bench.archive(A1), bench.archive(B1, broken=True)]
                await node.fetch(good, bench.holder)
                await node.fetch(bad, bench.holder)
                await node.apply(told(1, copy(A1, good), copy(B1, bad)))
                found = await settled(node, A1, B1)
                assert (found[A1].ready, found[A1].problem) == (True, "")
                assert not found[B1].ready
                assert found[B1].problem
                idle = await node.apply(told(2, copy(A1, good, workers=0)))
                for _ in range(1200):
                    idle = await node.status()
                    if [each.ref for each in idle.copies] == [A1] and not state(idle, A1).ready:
                        break
                    await asyncio.sleep(0.05)
                assert (state(idle, A1).ready, state(idle, A1).problem) == (False, ""), "it has no workers"

        self.run(work())

    def test_what_a_copy_asks_is_loaded_first(self) -> None:
        async def work() -> None:
            async with self.bench() as bench:
                node, [asked, asking] = bench.node, [bench.archive(B1), bench.archive(A1)]
                copies = [copy(A1, asking, needs=(B1,)), copy(B1, asked)]
                await node.fetch(asking, bench.holder)
                await node.apply(told(1, *copies, archives=frozenset([asked.sha256])))
                lacking = await settled(node, A1, B1)
                assert "it asks b/1.0, which is not served here" in lacking[A1].problem
                await node.fetch(asked, bench.holder)
                begun = await node.apply(told(2, *copies))
                while not state(begun, A1).ready:
                    assert not state(begun, A1).problem
                    assert not state(begun, B1).problem
                    await asyncio.sleep(0.01)
                    begun = await node.status()
                assert state(begun, B1).ready
                await node.apply(told(3))
                await settled(node)

        self.run(work())

    def test_it_keeps_archives_and_the_newest_snapshot(self) -> None:
        async def work() -> None:
            async with self.bench() as bench:
                node, archive = bench.node, bench.archive(A1)
                assert await node.kept() == (0, b"")
                await node.keep(5, b"five")
                await node.keep(4, b"four")
                assert await node.kept() == (5, b"five")
                await node.keep(6, b"")
                assert await node.kept() == (6, b"")
                with pytest.raises(PdError):
                    await node.piece(archive.sha256, 0)
                with pytest.raises(PdError):
                    await node.fetch(msgspec.structs.replace(archive, sha256="0" * 64), bench.holder)
                await node.fetch(archive, bench.holder)
                content, piece = b"", await node.piece(archive.sha256, 0)
                while piece:
                    content += piece
                    piece = await node.piece(archive.sha256, len(content))
                assert len(content) == archive.size
                await node.apply(told(1, archives=frozenset([archive.sha256])))
                assert (await node.status()).archives == (archive.sha256,)

        self.run(work())

    def test_after_a_restart_it_serves_nothing_until_it_is_told(self) -> None:
        async def work() -> None:
            async with self.bench() as bench:
                node, archive = bench.node, bench.archive(A1)
                await node.fetch(archive, bench.holder)
                await node.apply(told(7, copy(A1, archive)))
                await settled(node, A1)
                await node.restart()
                status = await node.status()
                assert (status.revision, status.copies, status.archives) == (0, (), (archive.sha256,))
                again = await node.apply(told(7, copy(A1, archive)))
                assert again.revision == 7
                assert (await settled(node, A1))[A1].ready

        self.run(work())
