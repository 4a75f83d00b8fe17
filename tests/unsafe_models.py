"""Models that do more than compute, made by Paddle: what they write and read is in the folder where they are made.

`python -m tests.unsafe_models make FOLDER` makes them, each as NAME.pdmodel or NAME.json; `run MODEL...` has Paddle run
some, and prints a line of JSON for each: what its outputs are, or why it can't be run; `operations` prints what
operations there are.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
WRITTEN = "written"
"""The name, before the rest, of files that models write."""
SECRET = "secret"
"""The file that models read, and what is in it."""
Operations = list[dict[str, Any]]


def made(folder: Path) -> Path:
    """The folder, with the models in it."""
    (folder / SECRET).write_text(SECRET)
    _in_paddle("make", folder, FLAGS_enable_pir_api="0")
    return folder


def run(models: Iterable[Path]) -> list[dict[str, Any]]:
    """What Paddle says of each."""
    lines = _in_paddle("run", *models).splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


@functools.cache
def operations() -> dict[str, dict[str, list[str]]]:
    """All that this Paddle has, by format, each with its attributes that are text or blocks."""
    found: dict[str, dict[str, list[str]]] = json.loads(_in_paddle("operations").splitlines()[-1])
    return found


def written(folder: Path) -> list[Path]:
    """What models have written."""
    return sorted(path for path in folder.rglob(f"{WRITTEN}*") if path.is_file())


def _in_paddle(*arguments: object, **environment: str) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "tests.unsafe_models", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# In a process of its own


def _make(folder: Path) -> None:
    import paddle
    from paddle.base import core, libpaddle

    paddle.enable_static()

    def program(looping: bool) -> Any:
        main = paddle.static.Program()
        with paddle.static.program_guard(main, paddle.static.Program()):
            x = paddle.static.data("x", [-1, 2], "float32")
            y = paddle.scale(x, 2.0)
            if looping:
                i, n = paddle.full([1], 0, "int64"), paddle.full([1], 2, "int64")
                _, y = paddle.static.nn.while_loop(lambda i, y: i < n, lambda i, y: [i + 1, y + 1.0], [i, y])
        return paddle.static.normalize_program(main, [x], [y])

    def save(into: Any, block: int, name: str) -> None:
        """One more operation, the last but one of a block: it writes what the block has just computed."""
        ops = into.block(block).ops
        value = next(op for op in reversed(ops) if op.type in ("scale", "elementwise_add")).output("Out")[0]
        attributes = {"file_path": str(folder / f"{WRITTEN}-{name}"), "overwrite": True}
        into.block(block)._insert_op(len(ops) - 1, type="save", inputs={"X": [value]}, outputs={}, attrs=attributes)
        (folder / f"{name}.pdmodel").write_bytes(into.desc.serialize_to_string())

    save(program(looping=False), 0, "save")
    save(program(looping=True), 1, "save_in_a_loop")
    for name, looping in (("plain", False), ("loop", True)):
        translated = libpaddle.pir.translate_to_pir(program(looping).desc)
        core.serialize_pir_program(translated, str(folder / f"{name}.json"), True, False, False)
    _write_json(folder)


def _write_json(folder: Path) -> None:
    """What Paddle has no words for in Python is put into what it has written."""
    plain, loop = (json.loads((folder / f"{name}.json").read_text()) for name in ("plain", "loop"))
    for model in (plain, loop):
        for operation in _operations(model):
            if operation["#"] == "1.feed":  # as paddle.jit.save has it
                operation["#"] = "1.data"
                operation["A"] = [
                    operation["A"][0],
                    _attribute("shape", "1.a_intarray", [-1, 2]),
                    _attribute("dtype", "1.a_dtype", "float32"),
                    _attribute("place", "1.a_place", [0, 0, ""]),
                ]
    for name, model in (("plain", plain), ("loop", loop)):
        (folder / f"{name}.json").write_text(json.dumps(model))
    read = _operation("1.read_file", 101, [], [_attribute("filename", "0.a_str", str(folder / SECRET)), *_ON_CPU])
    numerics = _operation("1.check_numerics", 102, [_last_value(plain)], [
        _attribute("op_type", "0.a_str", "x"), _attribute("var_name", "0.a_str", "x"),
        _attribute("check_nan_inf_level", "0.a_i32", 3), _attribute("stack_height_limit", "0.a_i32", 0),
        _attribute("output_dir", "0.a_str", str(folder / f"{WRITTEN}-numerics-")),
    ])  # fmt: skip
    numerics["O"] = [{"%": 102, "TT": _tensor("0.t_i64", [3])}, {"%": 103, "TT": _tensor("0.t_f32", [3])}]
    for name, operation, kind in (("read_file", read, "0.t_ui8"), ("check_numerics", numerics, "0.t_i64")):
        model = json.loads(json.dumps(plain))
        _operations(model).extend([operation, _fetch(operation["O"][0]["%"], kind)])
        (folder / f"{name}.json").write_text(json.dumps(model))
    [block] = [op["regions"][0]["blocks"][0] for op in _operations(loop) if op["#"] == "1.while"]
    block["ops"][-1:-1] = [read]
    (folder / "read_file_in_a_loop.json").write_text(json.dumps(loop))


def _operations(model: dict[str, Any]) -> Operations:
    operations: Operations = model["program"]["regions"][0]["blocks"][0]["ops"]
    return operations


def _last_value(model: dict[str, Any]) -> int:
    number: int = next(op for op in _operations(model) if op["#"] == "1.scale")["O"][0]["%"]
    return number


def _attribute(name: str, kind: str, value: object) -> dict[str, Any]:
    return {"N": name, "AT": {"#": kind, "D": value}}


def _tensor(kind: str, shape: list[int]) -> dict[str, Any]:
    return {"#": "0.t_dtensor", "D": [{"#": kind}, shape, "NCHW", [], 0]}


def _operation(name: str, value: int, inputs: list[int], attributes: list[dict[str, Any]]) -> dict[str, Any]:
    outputs = [{"%": value, "TT": _tensor("0.t_ui8", [-1])}]
    return {"#": name, "A": attributes, "I": [{"%": number} for number in inputs], "O": outputs}


def _fetch(value: int, kind: str) -> dict[str, Any]:
    attributes = [_attribute("name", "0.a_str", "more"), _attribute("col", "0.a_i32", 1)]
    return {**_operation("1.fetch", 104, [value], attributes), "O": [{"%": 104, "TT": _tensor(kind, [-1])}]}


_ON_CPU = [_attribute("dtype", "1.a_dtype", "uint8"), _attribute("place", "1.a_place", [1, 0, ""])]


def _run(models: Iterable[str]) -> None:
    import numpy as np
    from paddle import inference

    for model in models:
        said: dict[str, Any] = {"model": model}
        try:
            config = inference.Config(model, "")
            config.disable_gpu()
            config.disable_glog_info()
            predictor = inference.create_predictor(config)
            predictor.get_input_handle("x").copy_from_cpu(np.ones((1, 2), np.float32))
            predictor.run()
            names = predictor.get_output_names()
            said["outputs"] = [predictor.get_output_handle(name).copy_to_cpu().tolist() for name in names]
        except Exception as error:
            said["error"] = str(error)
        print(json.dumps(said), flush=True)


def _of_pdmodel() -> dict[str, list[str]]:
    from paddle.base import core
    from paddle.base.proto import framework_pb2

    found: dict[str, list[str]] = {name: [] for name in core.get_all_op_names()}
    kinds = (framework_pb2.STRING, framework_pb2.STRINGS, framework_pb2.BLOCK, framework_pb2.BLOCKS)
    for data in core.get_all_op_protos():
        described = framework_pb2.OpProto.FromString(data)
        found[described.type] = [attribute.name for attribute in described.attrs if attribute.type in kinds]
    return found


def _of_pir() -> dict[str, list[str]]:
    """From the headers that Paddle brings along: it has no list of these to ask for."""
    import paddle

    found: dict[str, list[str]] = {}
    folder = Path(paddle.__path__[0]) / "include" / "paddle" / "fluid" / "pir" / "dialect" / "operator" / "ir"
    for header in sorted(folder.glob("*_op.h")):
        for text in re.split(r"\nclass ", header.read_text())[1:]:
            attributes = re.findall(r"std::(?:vector<std::)?string>?\s*&?\s*(\w+)", text)
            for name in re.findall(r'return "pd_op\.(\w+)"', text):
                found.setdefault(name, []).extend(attributes)
    return found


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    if verb == "make":
        _make(Path(rest[0]))
    elif verb == "run":
        _run(rest)
    else:
        print(json.dumps({"of .pdmodel": _of_pdmodel(), "of PIR": _of_pir()}))
