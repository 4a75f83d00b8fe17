"""Ensembles: a model configuration whose steps name other models, as a pipeline of these models.

Source of the rules, and of the words for what breaks them: Triton's core, src/model_config_utils.cc and
src/ensemble_utils.cc.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import orjson

from pdarchiver import manifest as manifests
from pdarchiver.pipeline.graph import Graph, ModelBody, Node, Pipeline, Ref, Source, Type
from pdserver.configuration.model import MAX_BATCH_SIZE, MAX_QUEUE_SIZE
from pdserver.errors import ConfigError
from pdserver.formats.values import nearest, shown
from pdserver.store.model import StoredModel
from pdserver.triton.complete import check_supported, is_set, version_policy
from pdserver.triton.model_config import DATA_TYPES, DTYPES, as_json, data_type
from pdserver.types import Interface, Port

PLATFORM = "ensemble"
LATEST = -1
"""The version of a step that takes whichever is the model's default."""
_NO_LABELS: Mapping[str, Sequence[str]] = MappingProxyType({})
_NOT_FOR_ENSEMBLES = {
    "instance_group": "set it in the configurations of the steps' models, which are what runs",
    "optimization": "set it in the configurations of the steps' models, which are what runs",
    "model_warmup": "set it in the configurations of the steps' models, which are warm before they serve",
}


class Member(NamedTuple):
    """A model that a step names, as it is served."""

    interface: Interface
    max_batch_size: int
    """0: its inputs have no batch axis."""
    keeps_sequences: bool = False
    """Whether its requests must say which sequence they belong to."""


Members = Mapping[tuple[str, int], Member]
"""By the name and version of a step."""


def is_ensemble(config: Any) -> bool:
    return config.platform == PLATFORM or bool(config.HasField("ensemble_scheduling"))


def models_of(config: Any) -> list[tuple[str, int]]:
    """Names and versions of the steps' models, each once. A version that is not given is the latest."""
    steps = config.ensemble_scheduling.step
    return list(dict.fromkeys((step.model_name, step.model_version or LATEST) for step in steps))


def check(config: Any, where: str) -> list[str]:
    """Warnings for what the configuration says without effect. Raises ConfigError for what no ensemble can be."""
    if not config.HasField("ensemble_scheduling"):
        raise ConfigError(f"{where}: ensemble_scheduling: must be set where platform is {PLATFORM!r}")
    if config.platform != PLATFORM or config.backend:
        said = f"backend: {shown(config.backend)!r}" if config.backend else f"platform: {shown(config.platform)!r}"
        raise ConfigError(f"{where}: {said}, with ensemble_scheduling: expected platform: {PLATFORM!r} alone")
    for field, instead in _NOT_FOR_ENSEMBLES.items():
        if is_set(config, field):
            raise ConfigError(f"{where}: {field} should not be specified for an ensemble: {instead}")
    if not 0 <= config.max_batch_size <= MAX_BATCH_SIZE:
        raise ConfigError(f"{where}: max_batch_size: {config.max_batch_size}: expected 0 to {MAX_BATCH_SIZE}")
    for side in ("input", "output"):
        _check_side(getattr(config, side), f"{where}: {side}")
    at = f"{where}: ensemble_scheduling"
    if not config.ensemble_scheduling.step:
        raise ConfigError(f"{at}: must specify 'step'")
    for idx, step in enumerate(config.ensemble_scheduling.step):
        _check_step(step, config.name, f"{at}: step {idx}")
    _check_tensors(config, at)
    _in_order(config, at)
    return _warnings(config, where)


def _warnings(config: Any, where: str) -> list[str]:
    found = [
        f"{where}: input {each.name!r}: optional has no effect: the steps' models need all of their inputs"
        for each in config.input
        if each.optional
    ]
    if config.response_cache.enable:
        found.append(f"{where}: response_cache has no effect: set it in the configurations of the steps' models")
    if any(step.model_namespace for step in config.ensemble_scheduling.step):
        found.append(f"{where}: model_namespace has no effect: a name is served once")
    return found


def pipeline_of(config: Any, members: Members, where: str) -> Pipeline:
    """The pipeline that a checked configuration describes. Raises ConfigError where it and the models disagree."""
    interface = _interface(config)
    known = {port.name: _Known(port, config.name) for port in interface.inputs}
    wanted = {port.name: _Known(port, config.name) for port in interface.outputs}
    refs = {name: Ref("", name) for name in known}
    nodes: dict[str, Node] = {}
    for step in _in_order(config, where):
        version = step.model_version or LATEST
        member = members[step.model_name, version]
        if 0 < member.max_batch_size < config.max_batch_size:
            raise ConfigError(
                f"{where}: ensemble {config.name} allows maximum batch size {config.max_batch_size}, but it contains "
                f"model {step.model_name} which only allows maximum batch size to be {member.max_batch_size}"
            )
        if member.keeps_sequences:
            raise ConfigError(
                f"{where}: model {step.model_name} keeps sequences, which an ensemble does not pass on: ask it alone"
            )
        _fit(step, member.interface, known, wanted, f"{where}: in ensemble {config.name}")
        name = _name(step.model_name, nodes)
        body = ModelBody(step.model_name, None if version == LATEST else str(version))
        nodes[name] = Node(name, body, {given: Source((refs[tensor],)) for given, tensor in step.input_map.items()})
        refs |= {tensor: Ref(name, output) for output, tensor in step.output_map.items()}
    inputs = {port.name: Type("tensor", port.dtype, port.shape) for port in interface.inputs}
    outputs = {port.name: Source((refs[port.name],)) for port in interface.outputs}
    return Pipeline(Graph(inputs, nodes, outputs), batched=interface.batched)


def _interface(config: Any, labels: Mapping[str, Sequence[str]] = _NO_LABELS) -> Interface:
    """What clients send and get, as the configuration says."""
    batched = config.max_batch_size > 0
    outputs = [_port(each, batched, labels.get(each.name, ())) for each in config.output]
    return Interface([_port(each, batched) for each in config.input], outputs, batched)


def stored_ensemble(
    url: str, directory: Path, config: Any, members: Members, labels: Mapping[str, Sequence[str]], where: str
) -> tuple[StoredModel, list[str]]:
    """The version that `url` names, as a pipeline of `members`; and warnings. `labels` are those of outputs. Raises
    ConfigError."""
    name, _, version = url.rpartition("/")
    full = type(config)()
    full.CopyFrom(config)
    full.name = name
    full.version_policy.CopyFrom(version_policy(full))
    warnings = [*check_supported(full, where), *check(full, where)]
    described = manifests.Manifest(model_name=name, model_version=version)
    raw = orjson.loads(manifests.dump(described)) | {"modelConfig": as_json(full)}
    return StoredModel(
        url=url,
        directory=directory,
        digest=hashlib.sha256(orjson.dumps(raw)).hexdigest(),
        manifest=replace(described, raw=raw),
        settings={"batch_size": max(1, full.max_batch_size), "queue_size": MAX_QUEUE_SIZE},
        model_config={},
        pipeline=pipeline_of(full, members, where),
        interface=_interface(full, labels),
    ), warnings


class _Known(NamedTuple):
    """What is known of an ensemble's tensor, and which model says it."""

    port: Port
    model: str


def _check_side(tensors: Any, where: str) -> None:
    if not tensors:
        raise ConfigError(f"{where}: an ensemble must have at least one")
    names: set[str] = set()
    for tensor in tensors:
        if not tensor.name:
            raise ConfigError(f"{where}: must specify 'name'")
        at = f"{where} {shown(tensor.name)!r}"
        if tensor.name in names:
            raise ConfigError(f"{at} is there twice")
        names.add(tensor.name)
        if data_type(tensor) not in DTYPES:
            raise ConfigError(f"{at}: must specify 'data_type', such as TYPE_FP32")
        if not tensor.dims or any(length < 1 and length != -1 for length in tensor.dims):
            raise ConfigError(f"{at}: dims: {list(tensor.dims)}: expected lengths of at least 1, or -1 for any length")
        if tensor.HasField("reshape"):
            raise ConfigError(f"{at}: reshape: an ensemble passes tensors on as they are: set it in the step's model")


def _check_step(step: Any, ensemble: str, where: str) -> None:
    for field in ("model_name", "input_map", "output_map"):
        if not getattr(step, field):
            raise ConfigError(f"{where}: must specify '{field}'")
    if step.model_name == ensemble:
        raise ConfigError(f"{where}: model_name: {shown(ensemble)!r} is the ensemble itself")
    if step.model_version < LATEST:
        raise ConfigError(f"{where}: model_version: {step.model_version}: expected a version, or {LATEST}: the latest")


def _check_tensors(config: Any, where: str) -> None:
    """That each of the ensemble's tensors is given once, and taken."""
    given = {each.name: "the client" for each in config.input}
    taken: set[str] = set()
    for idx, step in enumerate(config.ensemble_scheduling.step):
        for tensor in step.output_map.values():
            if tensor in given:
                raise ConfigError(
                    f"{where}: ensemble tensor '{shown(tensor)}' can appear in an output map only once: step {idx} "
                    f"gives it, and {given[tensor]} does"
                )
            given[tensor] = f"step {idx}"
        taken |= set(step.input_map.values())
    outputs = {each.name for each in config.output}
    for name in sorted(outputs - given.keys()):
        raise ConfigError(
            f"{where}: ensemble output '{shown(name)}' is not used{nearest(name, given)}: no output_map has it"
        )
    for name in sorted(taken - given.keys()):
        raise ConfigError(
            f"{where}: ensemble tensor '{shown(name)}' is not written{nearest(name, given)}: it is no input, and in no "
            "output_map"
        )
    for name in sorted(given.keys() - taken - outputs):
        if given[name] == "the client":
            raise ConfigError(
                f"{where}: ensemble input '{shown(name)}' is not used{nearest(name, taken)}: no input_map has it"
            )
        raise ConfigError(f"{where}: ensemble tensor '{shown(name)}' is unused: leave it out of {given[name]}")


def _in_order(config: Any, where: str) -> list[Any]:
    """The steps, each after those whose tensors it takes. Raises ConfigError for steps that wait for each other."""
    there = {each.name for each in config.input}
    left = list(config.ensemble_scheduling.step)
    found: list[Any] = []
    while left:
        due = [step for step in left if there.issuperset(step.input_map.values())]
        if not due:
            waiting = ", ".join(sorted({step.model_name for step in left}))
            raise ConfigError(f"{where}: the steps of {shown(waiting)} wait for each other's tensors: a circle")
        found += due
        left = [step for step in left if step not in due]
        for step in due:
            there |= set(step.output_map.values())
    return found


def _fit(step: Any, interface: Interface, known: dict[str, _Known], wanted: Mapping[str, _Known], where: str) -> None:
    """Add to `known` what the step gives. Raises ConfigError for names, dtypes and shapes that do not fit.

    A model with a batch axis takes tensors without one as one row. If all of its inputs are such, its outputs have no
    batch axis, either.
    """
    model = step.model_name
    takes = {port.name: port for port in interface.inputs}
    gives = {port.name: port for port in interface.outputs}
    rows = 0
    for name, tensor in step.input_map.items():
        if name not in takes:
            raise ConfigError(
                f"{where}, ensemble tensor {shown(tensor)} is mapping to non-existing input {shown(name)} in model "
                f"{model}{nearest(name, takes)}; it has {', '.join(takes)}"
            )
        port = takes[name]
        if interface.batched and len(known[tensor].port.shape) == len(port.shape) - 1:
            port = _row(port)
            rows += 1
        _agree(known[tensor], _Known(port, model), f"{where}, ensemble tensor {shown(tensor)}")
    for name in takes.keys() - step.input_map.keys():
        raise ConfigError(f"{where}, input {name} in model {model} is not mapped to any ensemble tensors")
    for name, tensor in step.output_map.items():
        if name not in gives:
            raise ConfigError(
                f"{where}, ensemble tensor {shown(tensor)} is mapped from non-existing output {shown(name)} in model "
                f"{model}{nearest(name, gives)}; it has {', '.join(gives)}"
            )
        port = _row(gives[name]) if rows == len(takes) else gives[name]
        known[tensor] = _Known(port, model)
        if tensor in wanted:
            _agree(wanted[tensor], known[tensor], f"{where}, ensemble tensor {shown(tensor)}")


def _row(port: Port) -> Port:
    return msgspec.structs.replace(port, shape=port.shape[1:])


def _agree(one: _Known, other: _Known, where: str) -> None:
    """Raises ConfigError where two models say different things of a tensor."""
    if one.port.dtype != other.port.dtype:
        types = [DATA_TYPES.get(each.port.dtype, each.port.dtype) for each in (one, other)]
        raise ConfigError(
            f"{where}: inconsistent data type: {types[0]} is inferred from model {one.model} while {types[1]} is "
            f"inferred from model {other.model}"
        )
    shapes = one.port.shape, other.port.shape
    if len(shapes[0]) != len(shapes[1]) or any(a != b and -1 not in (a, b) for a, b in zip(*shapes, strict=True)):
        raise ConfigError(
            f"{where}: inconsistent shape: {list(shapes[0])} is inferred from model {one.model} while "
            f"{list(shapes[1])} is inferred from model {other.model}"
        )


def _port(tensor: Any, batched: bool, labels: Sequence[str] = ()) -> Port:
    shape = (-1, *tensor.dims) if batched else tuple(tensor.dims)
    return Port(tensor.name, DTYPES[data_type(tensor)], shape, dict(enumerate(labels)))


def _name(model: str, nodes: Mapping[str, Node]) -> str:
    """The node's: its model's, with a number where several steps run the same one."""
    return next(
        name
        for name in itertools.chain((model,), (f"{model}-{number}" for number in itertools.count(2)))
        if name not in nodes
    )
