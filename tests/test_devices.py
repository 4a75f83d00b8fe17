"""What of the machine this process may use, from cgroups' files as kernels and containers show them."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from pdserver.system.devices import core_count, memory

ALL = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("cgroup", "files", "cores"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "100000 100000\n"}, 1),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, 1),
        ("0::/a\n", {"a/cpu.max": "100001 100000\n"}, min(2, ALL)),
        ("0::/a\n", {"a/cpu.max": "max 100000\n"}, ALL),
        ("0::/a\n", {"a/cpu.max": "99900000 100000\n"}, ALL),
        ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
        ("0::/outside/the/container\n", {"cpu.max": "20000 100000\n"}, 1),
        ("0::/b\n", {"a/cpu.max": "100000 100000\n"}, ALL),
        ("0::/../../a\n", {}, ALL),
        (
            "5:memory:/a\n4:cpu,cpuacct:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "100000\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
            1,
        ),
        ("4:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, ALL),
        ("0::/a\n", {"a/cpu.max": "nonsense"}, ALL),
        ("0::/a\n", {"a/cpu.max": "1 0"}, ALL),
        ("nonsense\n", {}, ALL),
        (None, {}, ALL),
    ],
)
def test_a_quota_of_the_cgroup_or_of_one_above_counts_in_whole_cores(
    tmp_path: Path, cgroup: str | None, files: dict[str, str], cores: int
) -> None:
    for name, text in files.items():
        (tmp_path / "mounted" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mounted" / name).write_text(text)
    if cgroup is not None:
        (tmp_path / "cgroup").write_text(cgroup)
    assert core_count(tmp_path / "mounted", tmp_path / "cgroup") == cores


MACHINE = psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("cgroup", "files", "total", "free"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "5000\n", "a/b/memory.current": "2000\n"}, 5000, 3000),
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": "7000\n", "a/memory.current": "9000\n"}, 7000, 0),
        (
            "0::/a\n",
            {"a/memory.max": "5000", "a/memory.current": "4000", "a/memory.stat": "anon 1\ninactive_file 500\n"},
            5000,
            1500,
        ),
        (
            "5:memory:/a\n",
            {"memory/a/memory.limit_in_bytes": "6000\n", "memory/a/memory.usage_in_bytes": "1000\n"},
            6000,
            5000,
        ),
        ("4:cpu:/a\n", {"memory/a/memory.limit_in_bytes": "6000\n"}, MACHINE, None),
        ("0::/a\n", {"a/memory.max": "nonsense"}, MACHINE, None),
        (None, {}, MACHINE, None),
    ],
)
def test_memory_is_what_the_cgroup_and_those_above_it_leave(
    tmp_path: Path, cgroup: str | None, files: dict[str, str], total: int, free: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / "mounted" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mounted" / name).write_text(text)
    if cgroup is not None:
        (tmp_path / "cgroup").write_text(cgroup)
    found = memory(tmp_path / "mounted", tmp_path / "cgroup")
    assert found.total_bytes == total
    assert 0 < found.free_bytes <= MACHINE if free is None else found.free_bytes == free
