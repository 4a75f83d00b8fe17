"""Servers with several front ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import pack_handler
from tests.running import RunningServer
from tests.without_paddle import running_without_paddle

Several = Callable[..., RunningServer]


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Several]:
    """Starts a server with two front ends and with these handlers of the zoo, each with its YAML."""
    with ExitStack() as stack:

        def start(models: dict[str, str], **settings: str) -> RunningServer:
            folder: Path = tmp_path_factory.mktemp("several")
            (folder / "store").mkdir()
            for handler, config in models.items():
                pack_handler(folder / "store", handler, config=config)
            return stack.enter_context(
                running_without_paddle(folder, folder / "store", **{"front_ends": "2", **settings})
            )

        yield start
