"""The inputs and outputs of a model, read from its files without importing paddle.

`onnx_model` reads ONNX's format. Paddle has two: PIR (`.json`, since Paddle 3) and ProgramDesc (`.pdmodel`, protobuf,
since Paddle 2). Sources: paddle/fluid/pir/serialize_deserialize (schema.h) and paddle/fluid/framework/framework.proto.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pdarchiver import messages, onnx_model
from pdarchiver.dtypes import BY_NUMBER, BY_PIR_NAME, PREDICTORS_DTYPES
from pdarchiver.errors import InvalidModel, PackingError, nearest
from pdarchiver.manifest import Signature, TensorSpec


@dataclass(frozen=True)
class Program:
    """What a model file says of its outside."""

    signature: Signature
    parameters: Counter[tuple[int, ...]]
    """How many parameters of each shape the model's weights file has to hold."""
    parameter_names: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """And their shapes, in the order of that file; PIR's form has no names."""
    lod: frozenset[str] = frozenset()
    """Outputs that are LoD tensors, by the model's own names: rows of different lengths. PIR has none."""
    files: tuple[str, ...] = ()
    """Files beside an ONNX model that hold weights: paths from its folder."""


def read(path: Path) -> Program:
    """Read a model file: an `.onnx`, or one of Paddle's, whose content tells its form. Raises InvalidModel."""
    program = _onnx(path) if path.suffix == onnx_model.SUFFIX else _paddles(path)
    if not program.signature.outputs:
        raise InvalidModel(f"{path}: the model has no outputs; save it for inference (paddle.jit.save)")
    return program


def _onnx(path: Path) -> Program:
    outside = onnx_model.read(path)
    return Program(outside.signature, Counter(), files=outside.files)


def _paddles(path: Path) -> Program:
    data = path.read_bytes()
    parse, kind = (_pir, "a Paddle model in JSON (PIR)") if data[:1] == b"{" else (_program_desc, "a Paddle model")
    try:
        return parse(data)
    except InvalidModel as error:
        raise InvalidModel(f"{path}: {error}") from None
    except (ValueError, LookupError, TypeError, AttributeError, StopIteration, RecursionError) as error:
        raise InvalidModel(
            f"{path}: not {kind}: expected what paddle.jit.save or paddle.static.save_inference_model writes "
            f"({type(error).__name__}: {str(error)[:200]})"
        ) from None


def saved_by(path: Path) -> str:
    """The version of Paddle that saved a `.pdmodel` or `__model__`, such as "1.8.4"; "" if the file does not say."""
    data = path.read_bytes()
    try:
        number = 0 if data[:1] == b"{" else messages.decode("ProgramDesc", data).version.version
    except ValueError:
        return ""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}" if number > 0 else ""


def check_dtypes(signature: Signature) -> None:
    """Raises InvalidModel for an input or output of a type that the server does not take or give."""
    for side, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for spec in specs:
            if spec.dtype not in PREDICTORS_DTYPES:
                raise InvalidModel(
                    f"the {side} {spec.name!r} is {spec.dtype}, which the server cannot "
                    f"{'take' if side == 'input' else 'give'}: have the model cast it (paddle.cast, or paddle.as_real "
                    f"for complex numbers; Cast in ONNX) to one of {', '.join(sorted(PREDICTORS_DTYPES))}"
                )


def rename(signature: Signature, inputs: Mapping[str, str], outputs: Mapping[str, str], where: str) -> Signature:
    """Give public names to inputs and outputs: the model's own name → public name. `where` names the wish's origin.

    Raises PackingError for a name that the model does not have, and for a public name that stands for two tensors.
    """
    return Signature(
        _renamed(signature.inputs, inputs, f"{where}: inputs"),
        _renamed(signature.outputs, outputs, f"{where}: outputs"),
    )


def _renamed(specs: tuple[TensorSpec, ...], names: Mapping[str, str], where: str) -> tuple[TensorSpec, ...]:
    sources = [spec.source for spec in specs]
    for unknown in names.keys() - set(sources):
        raise PackingError(
            f"{where}: the model has no {unknown!r}{nearest(unknown, sources)}; it has {', '.join(sources) or 'none'}"
        )
    renamed = tuple(replace(spec, name=names.get(spec.source, spec.name)) for spec in specs)
    twice = [name for name, count in Counter(spec.name for spec in renamed).items() if count > 1]
    if twice:
        raise PackingError(f"{where}: {twice[0]!r} would be the name of {' and '.join(_named(renamed, twice[0]))}")
    return renamed


def _named(specs: tuple[TensorSpec, ...], name: str) -> list[str]:
    return [repr(spec.source) for spec in specs if spec.name == name]


# PIR. An operation is {"#": type, "A": attributes, "O": results}; a value's type stands beside it.

_PIR_PARAMETER = "p"
_PIR_INPUT, _PIR_OUTPUT = "1.data", "1.fetch"


def _pir(data: bytes) -> Program:
    root = json.loads(data)
    if root.get("base_code", {}).get("magic") != "pir":
        raise InvalidModel("a JSON file, but not a Paddle model in PIR form: it has no base_code.magic 'pir'")
    inputs: list[TensorSpec] = []
    outputs: list[tuple[int, TensorSpec]] = []
    parameters: Counter[tuple[int, ...]] = Counter()
    # Inputs and outputs stand in the outermost block only; deeper ones are bodies of loops and conditions.
    for operation in root["program"]["regions"][0]["blocks"][0]["ops"]:
        kind = operation["#"]
        if kind == _PIR_PARAMETER:
            parameters[_pir_tensor(operation["O"]["TT"])[1]] += _is_persistable(operation)
        elif kind in (_PIR_INPUT, _PIR_OUTPUT):
            attributes = {attribute["N"]: attribute["AT"].get("D") for attribute in operation["A"]}
            name = attributes["name"]
            try:
                spec = TensorSpec(name, *_pir_tensor(operation["O"][0]["TT"]), source=name)
            except LookupError:
                raise InvalidModel(f"{name!r} is not a dense tensor of a known type") from None
            if kind == _PIR_INPUT:
                inputs.append(spec)
            else:
                outputs.append((attributes["col"], spec))
    outputs.sort(key=lambda item: item[0])
    if both := {spec.name for spec in inputs} & {spec.name for _, spec in outputs}:
        raise InvalidModel(
            f"the input {min(both)!r} is an output as well, which Paddle cannot run: leave it out of what the model "
            "returns, or return paddle.assign of it"
        )
    return Program(Signature(tuple(inputs), tuple(spec for _, spec in outputs)), parameters)


def _is_persistable(parameter: dict[str, Any]) -> bool:
    """Paddle saves no other ones, like the state of an LSTM's dropout."""
    return bool(parameter.get("OA", [1])[0])  # persistable, stop_gradient, trainable


def _pir_tensor(value_type: dict[str, Any]) -> tuple[str, tuple[int, ...]]:
    """dtype and shape of a `{"#": "0.t_dtensor", "D": [element type, shape, layout, …]}`; LookupError for others."""
    if value_type["#"] != "0.t_dtensor":
        raise LookupError(value_type["#"])
    element, shape = value_type["D"][:2]
    return BY_PIR_NAME[element["#"].partition(".")[2]].name, tuple(int(length) for length in shape)


# ProgramDesc.

_DENSE_TENSOR, _FEED_LIST, _FETCH_LIST, _READER, _RAW = 7, 9, 10, 15, 17


def _program_desc(data: bytes) -> Program:
    block = messages.decode("ProgramDesc", data).blocks[0]
    variables = {variable.name: variable for variable in block.vars}
    sides: dict[str, list[tuple[int, TensorSpec]]] = {"feed": [], "fetch": []}
    for operation in block.ops:
        if operation.type in sides:
            is_input = operation.type == "feed"
            name = _argument(operation.outputs, "Out") if is_input else _argument(operation.inputs, "X")
            if is_input and variables[name].type.dense_tensor.lod_level > 0:
                raise InvalidModel(
                    f"the input {name!r} is a LoD tensor: rows of different lengths, which need those lengths beside "
                    "them; requests cannot give them, and Paddle crashes without. Export the model with padded inputs "
                    "and a mask or lengths as an input of its own"
                )
            sides[operation.type].append((_column(operation), _desc_spec(variables[name])))
    inputs, outputs = ([spec for _, spec in sorted(side, key=lambda item: item[0])] for side in sides.values())
    parameters = _desc_parameters(variables)
    lod = frozenset(spec.source for spec in outputs if variables[spec.source].type.dense_tensor.lod_level > 0)
    return Program(Signature(tuple(inputs), tuple(outputs)), Counter(parameters.values()), parameters, lod)


def _argument(side: Iterable[Any], parameter: str) -> str:
    (found,) = [item for item in side if item.parameter == parameter]
    name: str = found.arguments[0]
    return name


def _column(operation: Any) -> int:
    return next((attribute.i for attribute in operation.attrs if attribute.name == "col"), 0)


def _desc_spec(variable: Any) -> TensorSpec:
    kind = variable.type
    dtype = BY_NUMBER.get(kind.dense_tensor.tensor.data_type) if kind.HasField("dense_tensor") else None
    if kind.type != _DENSE_TENSOR or dtype is None:
        raise InvalidModel(f"{variable.name!r} is not a dense tensor of a known type")
    return TensorSpec(variable.name, dtype.name, tuple(kind.dense_tensor.tensor.dims), source=variable.name)


def _desc_parameters(variables: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(variable.type.dense_tensor.tensor.dims)
        for name, variable in sorted(variables.items(), key=lambda item: item[0].encode())
        if variable.persistable and variable.type.type not in (_FEED_LIST, _FETCH_LIST, _READER, _RAW)
    }
