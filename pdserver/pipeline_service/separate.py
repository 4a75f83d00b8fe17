"""A service whose Ops have workers of their own → a pipeline for this server, each Op a node of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pdarchiver.pipeline.graph import PIPELINE_FILE, WEB_SERVICE
from pdserver.handlers.pipeline import entry, script, settings
from pdserver.handlers.pipeline.op import READER, Op
from pdserver.handlers.pipeline.parcels import Parcel
from pdserver.handlers.pipeline.script import Service
from pdserver.handlers.pipeline.service import OP

_FILE = "web_service.py"
_NODE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
_TYPES = {"said": "text", "arrays": "list", "pieces": "list"}


def text(service: Service, started: Mapping[str, Any]) -> str:
    """The pipeline.yaml. `started` is the script that workers run."""
    names = {op.name: _name(op, index) for index, op in enumerate(service.ops)}
    last = service.ops[-1]
    nodes = {names[op.name]: _node(op, service, names, started) for op in service.ops}
    outputs = {name: f"{names[last.name]}.{name}" for name in ("answer", "head")}
    inputs = {"request": "list", "names": "json"}
    pipeline = {"inputs": inputs, "outputs": outputs, "contract": WEB_SERVICE, "nodes": nodes}
    return json.dumps(pipeline, ensure_ascii=False, indent=1)  # which is YAML as well


def write(folder: Path, content: str) -> None:
    """The pipeline as a folder of the store."""
    (folder / PIPELINE_FILE).write_text(content, "utf-8")
    (folder / _FILE).write_text(Path(entry.__file__).read_text("utf-8"), "utf-8")


def _name(op: Op, index: int) -> str:
    """Of its node: its own, where that is one."""
    return op.name if _NODE_NAME.fullmatch(op.name) else f"op{index}-"


def _node(op: Op, service: Service, names: Mapping[str, str], started: Mapping[str, Any]) -> dict[str, Any]:
    config = service.config.ops[op.name]
    inputs: dict[str, str] = {}
    for index, giver in enumerate(dict.fromkeys(each.name for each in op.get_input_ops())):
        if giver == READER:
            inputs |= {"request": "request", "names": "names"}
        else:
            inputs |= {f"{part}{index}": f"{names[giver]}.{part}" for part in ("head", *Parcel._fields)}
    outputs = {"answer": "any", "head": "json"} if op is service.ops[-1] else {"head": "json", **_TYPES}
    return {
        "python": f"{_FILE}:{entry.OpHandler.__name__}",
        "inputs": inputs,
        "outputs": outputs,
        **({"retry": config.keys.retry - 1} if config.keys.retry > 1 else {}),
        "settings": {**settings.of_op(config), OP: op.name, script.SECTION: dict(started)},
    }
