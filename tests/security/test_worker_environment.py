"""What a handler finds around it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pdserver.worker.environment import WorkerEnvironment
from tests.conftest import pack_handler
from tests.running import RunningServer, clean_environment, eventually

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "hush",
    "DATABASE_URL": "hush",
    "PADDLE_TOKEN": "hush",
    "PD_ADMIN_TOKEN": "a" * 32,
    "MODEL_KEY": "hush",
}
WANTED = {"MODEL_BUCKET": "shelf", "FLAGS_use_mkldnn": "1", "LC_ALL": "C.UTF-8", "MALLOC_TRIM_THRESHOLD_": "4096"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("surroundings")
    store = folder / "store"
    store.mkdir()
    pack_handler(store, "around")
    settings = {
        "worker_env_vars": "MODEL_.*|AWS_REGION",
        "blacklist_env_vars": "MODEL_KEY",
        "worker_limits": "nofile=200, fsize=1000000",
        "disable_token_authorization": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.running.clean_environment", lambda: clean_environment() | SECRETS | WANTED)
        with RunningServer(folder / "server", store, settings=settings) as server:
            yield server


@pytest.fixture(scope="module")
def around(server: RunningServer) -> dict[str, Any]:
    found: dict[str, Any] = server.predict("around").json()
    return found


def test_it_sees_no_secrets(around: dict[str, Any]) -> None:
    seen = around["environment"]
    assert WANTED.items() <= seen.items()
    assert not SECRETS.keys() & seen.keys()
    assert "hush" not in str(seen)
    assert "a" * 32 not in str(seen)


def test_it_keeps_memory_for_the_next_run_unless_the_operator_says_otherwise(around: dict[str, Any]) -> None:
    seen = around["environment"]
    assert seen["MALLOC_TRIM_THRESHOLD_"] == WANTED["MALLOC_TRIM_THRESHOLD_"]
    assert seen["MALLOC_MMAP_THRESHOLD_"] == str(32 * 1024 * 1024)


def test_its_memory_is_in_huge_pages_where_there_are_any(around: dict[str, Any]) -> None:
    allowed = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not allowed.exists() or "[never]" in allowed.read_text():
        pytest.skip("this system has no transparent huge pages")
    memory = Path(f"/proc/{around['pid']}/smaps_rollup").read_text()
    [huge] = re.findall(r"^AnonHugePages: +(\d+) kB", memory, re.MULTILINE)
    assert int(huge) > 0


def test_it_has_only_its_own_descriptors(around: dict[str, Any]) -> None:
    """The standard streams and its channel."""
    kinds = [name.partition(":")[0] for name in around["descriptors"]]
    assert sorted(kinds) == ["/dev/null", "pipe", "pipe", "socket"]


def test_it_is_a_session_of_its_own(around: dict[str, Any]) -> None:
    assert around["session"] == around["group"] == around["pid"]


def test_its_working_directory_is_the_models_folder(around: dict[str, Any]) -> None:
    assert around["working_folder"] == around["model_folder"]


def test_engines_that_it_brings_have_as_many_threads_as_the_predictor(server: RunningServer) -> None:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    for threads, config in ((1, ""), (3, "predictor: {threads: 3}\n")):
        archive = pack_handler(Path(server.settings["model_store"]), "around", f"threads{threads}", config=config)
        assert server.manage("POST", f"/models?url={archive.name}&initial_workers=1").ok
        seen = server.predict(f"threads{threads}", b"").json()["environment"]
        assert [seen[name] for name in names] == [str(threads)] * 3


def test_it_has_its_limits(around: dict[str, Any]) -> None:
    assert around["limits"] == {"nofile": [200, 200], "fsize": [1_000_000, 1_000_000], "core": [0, 0]}


def test_its_temporary_files_are_private_and_go_with_it(server: RunningServer, around: dict[str, Any]) -> None:
    folder = Path(around["temporary"])
    assert around["environment"]["TMPDIR"] == around["shell"] == str(folder)
    assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777 == 0o700
    assert folder.stat().st_uid == os.getuid()
    (folder / "left").write_text("behind")
    server.manage("PUT", "/models/around?min_worker=0&synchronous=true")
    eventually(lambda: not folder.exists())


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("PATH", True),
        ("LC_TIME", True),
        ("CUDA_VISIBLE_DEVICES", True),
        ("PYTHONPATH", True),
        ("LD_LIBRARY_PATH", True),
        ("AWS_ACCESS_KEY_ID", False),
        ("GITHUB_TOKEN", False),
        ("PATHS", False),
        ("MY_PATH", False),
        ("PADDLE_SECRET", False),
        ("XDG_API_KEY", False),
    ],
)
def test_the_usual_variables(name: str, seen: bool) -> None:
    assert (name in WorkerEnvironment("/tmp").variables({name: "x"})) == seen
