"""L: models that do not load, die while they load, come back, or are registered and unregistered by many at once."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from pdarchiver.pack import PackOptions, pack
from tests.catalogue.ward import Ward
from tests.conftest import pack_handler
from tests.running import eventually, run_directory

STEPS = int(os.environ.get("PDSERVER_SOAK", "40"))


@pytest.fixture
def name(ward: Ward) -> Iterator[str]:
    """Of a model that is gone after the test."""
    yield "guest"
    if "guest" in ward.names():
        assert ward.unregister("guest").status_code == 200
    for path in ward.store.glob("guest*"):
        path.unlink()


def hard_to_load(ward: Ward, version: str = "1.0", settings: str = "", **loading: object) -> None:
    lines = "".join(f"  {key}: {value}\n" for key, value in loading.items())
    config = f"{settings}loading:\n{lines}" if loading else settings
    pack_handler(ward.store, "hard_to_load", name="guest", version=version, config=config)


@pytest.mark.catalogue("L1")
def test_what_cannot_be_loaded_is_not_registered(ward: Ward, name: str, tmp_path: Path) -> None:
    hard_to_load(ward, until=tmp_path / "never", **{"else": "raise"})
    refused = ward.register("url=guest.pdar&initial_workers=1&synchronous=true")
    assert (refused.status_code, "the vocabulary is missing" in refused.text) == (500, True)
    assert "guest" not in ward.names()


@pytest.mark.catalogue("L2", "W20")
def test_slow_loading_keeps_nobody_waiting(ward: Ward, name: str, tmp_path: Path) -> None:
    loaded = tmp_path / "loaded"
    hard_to_load(ward, settings="responseTimeout: 20\nminWorkers: 2\n", until=loaded)
    assert ward.register("url=guest.pdar&initial_workers=2&synchronous=false").status_code == 202
    eventually(lambda: ward.server.describe(name)["status"] == "LOADING")
    assert ward.server.ping().status_code == 503
    with ThreadPoolExecutor(1) as threads:
        early = threads.submit(ward.ask, name)
        eventually(lambda: ward.server.describe(name)["jobQueueStatus"]["pendingRequests"] == 1)
        loaded.touch()
        assert early.result().status_code == 200
    eventually(lambda: ward.server.ping().status_code == 200)

    eventually(lambda: ward.server.describe(name)["status"] == "READY")
    loaded.unlink()
    first, second = sorted(ward.pids(name))
    os.kill(first, signal.SIGKILL)
    eventually(lambda: ward.server.describe(name)["status"] == "DEGRADED")
    assert ward.server.ping().status_code == 200, "one still serves"
    assert ward.ask(name).status_code == 200
    os.kill(second, signal.SIGKILL)
    eventually(lambda: ward.server.ping().status_code == 503)
    loaded.touch()
    eventually(lambda: ward.server.describe(name)["status"] == "READY")


@pytest.mark.catalogue("L3")
def test_loading_that_hangs_is_ended(ward: Ward, name: str) -> None:
    hard_to_load(ward, settings="startupTimeout: 0.5\n", hang="true")
    refused = ward.register("url=guest.pdar&initial_workers=1&synchronous=true")
    assert (refused.status_code, "startupTimeout" in refused.text) == (500, True)


@pytest.mark.catalogue("L4", "L6")
def test_a_crash_loop_is_given_up_says_why_and_heals(ward: Ward, name: str, tmp_path: Path) -> None:
    healed = tmp_path / "healed"
    hard_to_load(ward, settings="probeInterval: 1\n", until=healed, **{"else": "die"})
    assert ward.register("url=guest.pdar&initial_workers=1&synchronous=false").status_code == 202
    eventually(lambda: ward.server.describe(name)["status"] == "FAILED")
    eventually(lambda: ward.server.describe(name)["workerRestarts"] >= 5)
    refused = ward.ask(name)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    ping = ward.server.ping()
    assert ping.status_code == 503
    for said in (
        refused.json()["message"],
        ping.json()["problems"]["guest/1.0"],
        ward.server.describe(name)["lastError"],
    ):
        assert "exited with status 9" in said
        assert "\n" not in said, "what it wrote, and where its code lies, is in the log alone"
        assert ".py" not in said
    ward.server.logged("the end of what it wrote:")
    ward.server.logged("the licence server does not answer")
    healed.touch()
    eventually(lambda: ward.server.ping().status_code == 200)
    assert ward.ask(name).status_code == 200


@pytest.mark.catalogue("L5")
def test_workers_that_die_on_each_first_request(ward: Ward, name: str) -> None:
    pack_handler(ward.store, "faults", name=name, config="probeInterval: 1\n")
    assert ward.register("url=guest.pdar&initial_workers=1&synchronous=true").status_code == 200
    statuses = [ward.ask(name, "die").status_code for _ in range(3)]
    assert statuses[:2] == [500, 500]
    eventually(lambda: ward.server.describe(name)["status"] == "FAILED")
    assert ward.ask(name).status_code == 503
    eventually(lambda: ward.ask(name).status_code == 200)


@pytest.mark.catalogue("L7")
def test_a_new_version_that_fails_leaves_the_old_one_serving(ward: Ward, name: str, tmp_path: Path) -> None:
    hard_to_load(ward)
    assert ward.register("url=guest.pdar&initial_workers=1&synchronous=true").status_code == 200
    hard_to_load(ward, version="2.0", until=tmp_path / "never", **{"else": "raise"})
    assert ward.register("url=guest.pdar&initial_workers=1&synchronous=true").status_code == 500
    assert ward.ask(name).status_code == 200
    assert ward.server.describe(name)["modelVersion"] == "1.0"


@pytest.mark.catalogue("L15")
def test_many_unregister_at_once(ward: Ward, name: str) -> None:
    hard_to_load(ward)
    assert ward.register("url=guest.pdar&initial_workers=1&synchronous=true").status_code == 200
    with ThreadPoolExecutor(8) as threads:
        url = f"{ward.server.management}/models/{name}"
        statuses = sorted(threads.map(lambda _: requests.delete(url, timeout=60).status_code, range(20)))
    assert statuses == [200] + [404] * 19


@pytest.mark.catalogue("L19", "S9")
def test_registering_again_and_again_leaves_nothing(ward: Ward, name: str) -> None:
    hard_to_load(ward)
    run = run_directory(ward.process.pid)

    def look() -> tuple[int, int, int]:
        threads = ward.process.num_threads()
        series = len(requests.get(f"{ward.server.metrics}/metrics", timeout=60).text.splitlines())
        return threads, series, len(list((run / "archives").iterdir()))

    before = None
    for count in range(6):
        assert ward.register("url=guest.pdar&initial_workers=1&synchronous=true").status_code == 200
        assert ward.ask(name).status_code == 200
        assert ward.unregister(name).status_code == 200
        if count == 1:  # the first ones may start a thread, or meet a status for the first time
            before = look()
    after = look()
    assert before is not None
    assert after[1:] == before[1:]
    assert after[0] <= before[0] + 2


@pytest.mark.catalogue("L20")
def test_odd_names_are_refused_and_reach_nothing(ward: Ward) -> None:
    names = [
        "..",
        ".",
        "../etc/passwd",
        "a/../b",
        "model/..",
        " ",
        "%00",
        "x" * 300,
        "é",
        "a\\b",
        "a b",
        "%2e%2e%2f",
        "-",
    ]
    before = ward.names()
    for odd in names:
        for query in (f"url={odd}", f"url=canary.pdar&model_name={odd}"):
            status = ward.register(query).status_code
            assert 400 <= status < 500, (query, status)
        assert requests.get(f"{ward.server.management}/models/{odd}", timeout=60).status_code < 500
    assert ward.names() == before


IMPORTS = {
    "exits": ("import sys\nsys.exit(1)\n", "SystemExit"),
    "loops": ("while True:\n    pass\n", "startupTimeout"),
    "prints": ("print('x' * 100_000)\nraise ValueError('no')\n", "ValueError: no"),
    "needs more": ("import nothing_of_that_name\n", "nothing_of_that_name"),
}


@pytest.mark.catalogue("H24")
@pytest.mark.parametrize("how", IMPORTS)
def test_what_happens_at_import(ward: Ward, name: str, tmp_path: Path, how: str) -> None:
    text, words = IMPORTS[how]
    (tmp_path / "guest_handler.py").write_text(f"{text}\ndef handle(data, context):\n    return data\n")
    (tmp_path / "guest.yaml").write_text("startupTimeout: 0.5\n" if how == "loops" else "{}\n")
    pack(
        PackOptions(
            model_name="guest",
            version="1.0",
            handler=str(tmp_path / "guest_handler.py"),
            config_file=tmp_path / "guest.yaml",
            export_path=ward.store,
            force=True,
        )
    )
    refused = ward.register("url=guest.pdar&initial_workers=1&synchronous=true")
    assert (refused.status_code, words in refused.text) == (500, True), refused.text


@pytest.mark.catalogue("L16")
def test_operators_do_what_they_like_in_any_order(ward: Ward) -> None:
    """An oracle of what is registered; every answer must agree with it. PDSERVER_SOAK=N takes N steps."""
    dice = random.Random(11)
    for version in ("1.0", "2.0"):
        pack_handler(ward.store, "hard_to_load", name="guest", version=version).rename(
            ward.store / f"guest-{version}.pdar"
        )
    oracle: dict[str, int] = {}
    default = ""
    for _ in range(STEPS):
        version = dice.choice(["1.0", "2.0"])
        action = dice.choice(["register", "unregister", "scale", "ask", "ask", "default"])
        if action == "register":
            answer = ward.register(f"url=guest-{version}.pdar&initial_workers=1&synchronous=true")
            assert answer.status_code == (409 if version in oracle else 200)
            default = default or version
            oracle.setdefault(version, 1)
        elif action == "unregister":
            answer = ward.unregister(f"guest/{version}")
            others = default == version and len(oracle) > 1
            assert answer.status_code == (404 if version not in oracle else 403 if others else 200)
            if answer.ok:
                del oracle[version]
                default = next(iter(oracle), "")
        elif action == "scale":
            workers = dice.choice([0, 1, 2])
            answer = ward.server.manage("PUT", f"/models/guest/{version}?min_worker={workers}&synchronous=true")
            assert answer.status_code == (200 if version in oracle else 404)
            if version in oracle:
                oracle[version] = workers
        elif action == "default":
            answer = ward.server.manage("PUT", f"/models/guest/{version}/set-default")
            assert answer.status_code == (200 if version in oracle else 404)
            default = version if version in oracle else default
        else:
            status = ward.ask(f"guest/{version}").status_code
            assert status == (404 if version not in oracle else 200 if oracle[version] else 503)
        registered = {
            described["modelVersion"]: len(described["workers"])
            for described in (ward.server.manage("GET", "/models/guest/all").json() if oracle else [])
        }
        assert registered == oracle
    for version in sorted(oracle, key=lambda version: version == default):
        assert ward.unregister(f"guest/{version}").status_code == 200
    for path in ward.store.glob("guest*"):
        path.unlink()
