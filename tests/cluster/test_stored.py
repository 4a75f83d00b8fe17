"""What the controller learns of an archive before it is placed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pdarchiver.pipeline.packing import PipelineOptions, pack_pipeline
from pdserver.cluster.base import Need
from pdserver.cluster.models import Opened
from pdserver.cluster.stored import StoredModels
from pdserver.configuration.loading import load_config
from tests.conftest import pack_handler

PIPELINE = """\
inputs: {x: bytes}
outputs: {y: join.body}
nodes:
  cut: {python: "steps.py:cut", inputs: {x: x}, outputs: [x], settings: {deviceType: gpu, deviceIds: [0, 1]}}
  one: {model: fit, version: "1.0", opaque: true, inputs: {x: cut.x}}
  two: {model: fit, opaque: true, inputs: {x: one.body}}
  join: {model: fit, opaque: true, inputs: {x: two.body}}
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


def opened(store: Path, url: str, **settings: str) -> Opened:
    config = load_config({"model_store": str(store), **settings}, {}, None)
    models = StoredModels(config, store.parent / "own")
    return asyncio.run(models.open(url, name=None, handler=None, sha256=None, settings={}))


@pytest.mark.parametrize(
    ("config", "gpus"),
    [
        ("", 0),
        ("deviceType: gpu\n", 1),
        ("deviceType: gpu\nminWorkers: 4\n", 1),
        ("deviceType: gpu\ndeviceIds: [1, 3]\n", 2),
    ],
    ids=["none", "one", "shared", "named"],
)
def test_a_copy_needs_the_gpus_that_its_settings_name(store: Path, config: str, gpus: int) -> None:
    pack_handler(store, "echo", config=config)
    assert opened(store, "echo.pdar").gpus == gpus


def test_settings_of_the_configuration_count(store: Path) -> None:
    pack_handler(store, "echo")
    models = '{"echo": {"1.0": {"deviceType": "gpu", "deviceIds": [0, 1, 2]}}}'
    assert opened(store, "echo.pdar", models=models).gpus == 3


def test_what_a_pipeline_asks_and_the_gpus_of_its_nodes(store: Path) -> None:
    (store.parent / "steps.py").write_text("def cut(data, context):\n    return data\n")
    file = store.parent / "pipeline.yaml"
    file.write_text(PIPELINE)
    pack_pipeline(PipelineOptions(model_name="page", version="1.0", pipeline=file, export_path=store))
    found = opened(store, "page.pdar")
    assert found.needs == (Need("fit", "1.0"), Need("fit"))
    assert found.gpus == 2
