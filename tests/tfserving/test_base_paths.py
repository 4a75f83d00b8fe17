"""What is found in base paths, and when it is taken."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pdserver.errors import Unavailable
from pdserver.store.watching import Settling, stamp
from pdserver.tfserving.base_paths import are_young, versions_in


def test_folders_with_numbers_are_versions(tmp_path: Path) -> None:
    for name in ("1", "02", "00000123", "3.part", "x", ".4", "-5", "9" * 19, "9" * 25, "٣"):
        (tmp_path / name).mkdir()
    (tmp_path / "7").write_text("a file")
    (tmp_path / "8").symlink_to(tmp_path / "x")
    (tmp_path / "001").mkdir()
    found = versions_in("fit", tmp_path)
    assert {key: folder.path.name for key, folder in found.items()} == {
        "1": "1",
        "2": "02",
        "123": "00000123",
        "8": "8",
    }
    assert [found["123"].number, found["123"].version, found["123"].url] == [123, "123", "fit/123"]


def test_a_base_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"Could not find base path .*/none for servable fit: No such file"):
        versions_in("fit", tmp_path / "none")


def test_stamps_change_with_files_and_links_to_nothing_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "link").symlink_to("/none")
    assert stamp(tmp_path) == ()
    (tmp_path / "1" / "model").write_text("a")
    before = stamp(tmp_path)
    assert [each[0] for each in before] == ["1/model"]
    assert stamp(tmp_path) == before
    (tmp_path / "1" / "model").write_text("ab")
    assert stamp(tmp_path) != before
    assert stamp(tmp_path, skip={"1"}) == ()


@pytest.mark.parametrize("loops", [("loop",), ("one", "two")])
def test_links_in_circles_hide_no_other_version(tmp_path: Path, loops: tuple[str, ...]) -> None:
    """Two links to the folder that they are in make a tree of 2⁴⁰ folders."""
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
    (tmp_path / "1" / "model").symlink_to("model")
    for name in loops:
        (tmp_path / "1" / name).symlink_to(".")
    (tmp_path / "3").symlink_to("3")
    assert [*versions_in("fit", tmp_path)] == ["1", "2"]


def test_what_was_copied_with_its_old_time_is_young(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model").write_text("a")
    os.utime(tmp_path / "1" / "model", (1, 1))
    assert are_young(versions_in("fit", tmp_path).values())
    assert not are_young([])


def test_a_change_counts_when_two_looks_find_the_same() -> None:
    settling: Settling[int] = Settling()
    assert settling.look({"a": 1}) == ({}, False)
    assert settling.look({"a": 2}) == ({}, False)
    assert settling.look({"a": 2}) == ({"a": 2}, True)
    settling.taken["a"] = 2
    assert settling.look({"a": 2}) == ({}, True)
    assert settling.look({"a": 2}, again=["a"]) == ({"a": 2}, True)
    assert settling.look({}) == ({}, False)
    assert settling.look({}) == ({"a": None}, True)
