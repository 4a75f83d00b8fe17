"""A worker that crashes is gone at once, whatever libraries do in a crash, and the log says what it was doing."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from pdserver.backends.local import LocalBackend
from pdserver.configuration.model import ModelSpec
from pdserver.types import Part, Request
from pdserver.worker.environment import WorkerEnvironment
from tests.conftest import ZOO, Lent, pack_handler

PATIENCE_SECONDS = 60.0
"""Half of responseTimeout and startupTimeout, after which a worker that hangs is killed."""


def test_a_broken_heap_is_a_death_and_not_a_hang(lent: Lent) -> None:
    server = lent("crash", config="maxWorkerDeaths: 100\n")
    headers = {"x-request-id": "the-one-that-crashes"}
    answer = server.predict("crash", data=b"x", headers=headers, timeout=PATIENCE_SECONDS)
    assert answer.status_code == 500
    assert "was killed by SIGABRT" in answer.json()["message"]
    server.logged("was killed by SIGABRT; it was answering the-one-that-crashes")
    server.logged("Fatal Python error: Aborted")
    server.logged('crash.py", line ')


def test_so_is_one_while_the_model_is_loaded(lent: Lent) -> None:
    archive = pack_handler(lent.store, "crash", config="while: loading\n")
    asked = f"/models?url={archive.name}&initial_workers=1&synchronous=true"
    answer = lent.server.manage("POST", asked, timeout=PATIENCE_SECONDS)
    assert answer.status_code >= 400
    lent.server.logged("was killed by SIGABRT; it was loading the model")


def test_whoever_imported_paddle(tmp_path: Path) -> None:
    """The nursery that a worker is forked from, or a worker of an environment of its own."""
    forked = ModelSpec(
        name="crash", version="1", url="", directory=str(ZOO), handler="crash.py", manifest={}, model_config={},
        min_workers=1, max_workers=1, python="",
    )  # fmt: skip

    async def crashes(backend: LocalBackend, spec: ModelSpec) -> None:
        worker = await backend.spawn(spec)
        await worker.load(spec, None)
        request = Request("crash", "1", "id", [Part("body", "", b"x")])
        died = asyncio.Event()
        worker.on_death(died.set)
        worker.send([request])
        await died.wait()
        error = await worker.death()
        assert "was killed by SIGABRT" in str(error)
        assert "Extension modules: " in error.last_words, "the end of what faulthandler writes"
        await worker.stop(1)

    async def scene() -> None:
        backend = LocalBackend(WorkerEnvironment(str(tmp_path)))
        try:
            await crashes(backend, forked)
            await crashes(backend, replace(forked, python=sys.executable))
        finally:
            await backend.close()

    asyncio.run(asyncio.wait_for(scene(), PATIENCE_SECONDS))
