"""The local backend, when its nursery does not live."""

from __future__ import annotations

import asyncio
import sys

import pytest

from pdserver.backends.local import LocalBackend
from pdserver.errors import WorkerDied
from pdserver.worker.environment import WorkerEnvironment


def test_a_nursery_that_ends_is_no_models_fault_until_none_lives(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")

    async def play() -> list[bool]:
        backend = LocalBackend(WorkerEnvironment(str(tmp_path_factory.mktemp("tmp"))))
        blameless = []
        for _ in range(4):
            with pytest.raises(WorkerDied, match="the nursery ended") as raised:
                await backend.start()
            blameless.append(raised.value.blameless)
        await backend.close()
        return blameless

    assert asyncio.run(play()) == [True, True, False, False]
