"""Archives on a node's disk: whole or not at all, once however many ask."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from pdserver.cluster.archives import Archives
from pdserver.cluster.base import PIECE_BYTES, Archive
from pdserver.errors import ArchiveUnusable, ModelNotFound, Unavailable
from tests import disks

CONTENT = os.urandom(2 * PIECE_BYTES + 5)


def described(content: bytes = CONTENT, file: str = "digits.pdar") -> Archive:
    return Archive(hashlib.sha256(content).hexdigest(), file, len(content))


class Holder:
    """Gives `content` by pieces, and counts how often; `lost`: it goes away after so many pieces."""

    def __init__(self, content: bytes = CONTENT, lost: int = 1_000) -> None:
        self.content, self.pieces, self.lost = content, 0, lost

    async def piece(self, sha256: str, offset: int) -> bytes:
        self.pieces += 1
        if self.pieces > self.lost:
            raise Unavailable("the holder is gone")
        await asyncio.sleep(0)
        return self.content[offset : offset + PIECE_BYTES]


def left(folder: Path) -> list[str]:
    """All files, the hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


def test_an_archive_comes_once_however_many_ask_for_it(tmp_path: Path) -> None:
    async def run() -> None:
        archives, holder, archive = Archives(tmp_path / "archives"), Holder(), described(file="a.tar.gz")
        await asyncio.gather(*(archives.fetch(archive, holder) for _ in range(5)))
        assert holder.pieces == 4, "three pieces and the empty one at the end"
        assert left(archives.folder) == [f"{archive.sha256}.tar.gz"] == [archives.name(archive)]
        assert archives.digests() == (archive.sha256,)
        assert await archives.is_sound(archive)
        again = Archives(tmp_path / "archives")
        other = Archives(tmp_path / "other")
        await other.fetch(archive, again)
        assert (other.folder / other.name(archive)).read_bytes() == CONTENT
        assert await again.piece(archive.sha256, len(CONTENT)) == b""

    asyncio.run(run())


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT + b"x", CONTENT[:-1] + b"\0\0", b"x" * len(CONTENT)])
def test_other_bytes_are_refused_and_leave_nothing(tmp_path: Path, content: bytes) -> None:
    archives = Archives(tmp_path)
    with pytest.raises(ArchiveUnusable, match="not the archive with the sha256"):
        asyncio.run(archives.fetch(described(), Holder(content)))
    assert left(tmp_path) == []


def test_a_holder_that_holds_endlessly_is_left(tmp_path: Path) -> None:
    class Endless(Holder):
        async def piece(self, sha256: str, offset: int) -> bytes:
            assert offset <= len(CONTENT), "it was asked for more than the archive has"
            return b"x" * PIECE_BYTES

    with pytest.raises(ArchiveUnusable):
        asyncio.run(Archives(tmp_path).fetch(described(), Endless()))


def test_who_waits_for_a_holder_that_goes_away_asks_its_own(tmp_path: Path) -> None:
    async def run() -> None:
        archives, archive = Archives(tmp_path), described()
        lost, there = Holder(lost=1), Holder()
        first, second = await asyncio.gather(
            archives.fetch(archive, lost), archives.fetch(archive, there), return_exceptions=True
        )
        assert isinstance(first, Unavailable)
        assert second is None
        assert left(tmp_path) == [f"{archive.sha256}.pdar"]

    asyncio.run(run())


def test_a_cancelled_fetch_leaves_nothing(tmp_path: Path) -> None:
    class Silent(Holder):
        async def piece(self, sha256: str, offset: int) -> bytes:
            if offset:
                asked.set()
                await asyncio.Event().wait()
            return await super().piece(sha256, offset)

    async def run() -> None:
        task = asyncio.create_task(Archives(tmp_path).fetch(described(), Silent()))
        await asked.wait()
        [stage] = left(tmp_path)
        assert stage.startswith(".")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert left(tmp_path) == []

    asked = asyncio.Event()
    asyncio.run(run())


def test_a_damaged_archive_is_removed(tmp_path: Path) -> None:
    async def run() -> None:
        archives, archive = Archives(tmp_path), described()
        assert not await archives.is_sound(archive)
        await archives.fetch(archive, Holder())
        (tmp_path / archives.name(archive)).write_bytes(CONTENT[:-1])
        assert not await archives.is_sound(archive)
        assert left(tmp_path) == []
        await archives.fetch(archive, Holder())
        assert await archives.is_sound(archive)

    asyncio.run(run())


def test_unused_archives_go_except_those_that_were_asked_for_just_now(tmp_path: Path) -> None:
    async def run() -> None:
        archives, used, unused = Archives(tmp_path), described(b"used"), described(b"unused")
        for content in (b"used", b"unused"):
            await archives.fetch(described(content), Holder(content))
        (tmp_path / "notes.txt").touch()
        await archives.keep_only([used.sha256])
        assert set(archives.digests()) == {used.sha256, unused.sha256}
        os.utime(tmp_path / archives.name(unused), (0, 0))
        await archives.fetch(unused, Holder())  # somebody is about to need it
        await archives.keep_only([used.sha256])
        assert set(archives.digests()) == {used.sha256, unused.sha256}
        os.utime(tmp_path / archives.name(unused), (0, 0))
        await archives.keep_only([used.sha256])
        assert archives.digests() == (used.sha256,)
        assert "notes.txt" in left(tmp_path)

    asyncio.run(run())


@pytest.mark.parametrize("sha256", ["", "../../etc/passwd", "A" * 64, "a" * 63])
def test_what_is_no_digest_names_no_file(tmp_path: Path, sha256: str) -> None:
    archives = Archives(tmp_path)
    with pytest.raises(ArchiveUnusable, match="64 hexadecimal digits"):
        asyncio.run(archives.fetch(Archive(sha256, "digits.pdar", 1), Holder(b"x")))
    with pytest.raises(ArchiveUnusable, match="64 hexadecimal digits"):
        asyncio.run(archives.piece(sha256, 0))


def test_an_unknown_digest_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no archive here"):
        asyncio.run(Archives(tmp_path).piece("a" * 64, 0))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disks.small(tmp_path / "disk", 1) as folder:
        yield folder


def test_a_full_disk_is_told_and_nothing_half_written_stays(small_disk: Path) -> None:
    async def run() -> None:
        archives = Archives(small_disk / "archives")
        with pytest.raises(Unavailable, match="No space left on device"):
            await archives.fetch(described(), Holder())
        assert left(archives.folder) == []
        small = described(b"small")
        await archives.fetch(small, Holder(b"small"))
        assert archives.digests() == (small.sha256,)

    asyncio.run(run())


def test_a_file_that_may_not_be_so_large_is_told(tmp_path: Path) -> None:
    async def run() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (PIECE_BYTES + 1, hard))
        try:
            with pytest.raises(Unavailable, match="File too large"):
                await Archives(tmp_path).fetch(described(), Holder())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert left(tmp_path) == []

    asyncio.run(run())


def test_a_holder_that_does_not_answer_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Holder):
        async def piece(self, sha256: str, offset: int) -> bytes:
            if offset:
                await asyncio.Event().wait()
            return await super().piece(sha256, offset)

    monkeypatch.setattr("pdserver.cluster.archives._PIECE_SECONDS", 0.2)
    with pytest.raises(Unavailable, match=r"digits\.pdar: who has it has not answered"):
        asyncio.run(Archives(tmp_path).fetch(described(), Silent()))
    assert left(tmp_path) == []
