"""Checks a whole pipeline. Programs that make graphs of other files check them here as well.

Places are those of a pipeline.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping

from pdarchiver.errors import InvalidPipeline, nearest
from pdarchiver.pipeline.flow import Flow, Sides, Signatures, sides
from pdarchiver.pipeline.graph import CONTRACTS, Pipeline, Type
from pdarchiver.pipeline.order import GROUP

__all__ = ["MAX_NODES", "Sides", "Signatures", "check", "output_types", "sides"]

MAX_NODES = 1000
PADDLEX = "paddlex/"
"""Begins the contracts that are PaddleX's."""


def check(pipeline: Pipeline, signatures: Signatures) -> None:
    """Raises InvalidPipeline for what can't work."""
    output_types(pipeline, signatures)


def output_types(pipeline: Pipeline, signatures: Signatures) -> dict[str, Type]:
    """What a pipeline gives, as far as that is known. Raises InvalidPipeline as `check` does."""
    graph = pipeline.graph
    count = sum(GROUP not in node.name for _, node in graph.walk())
    if count > MAX_NODES:
        raise InvalidPipeline("nodes", f"{count} nodes; at most {MAX_NODES} are accepted")
    _check_contract(pipeline.contract)
    found = Flow(graph, graph.inputs, signatures, contract=bool(pipeline.contract)).outputs()
    if pipeline.contract.startswith(PADDLEX):
        _check_paddlex(pipeline.contract, graph.inputs, found)
    _check_samples(pipeline)
    if pipeline.batched:
        _check_batched("inputs", graph.inputs)
        _check_batched("outputs", found)
    return found


def _check_contract(contract: str) -> None:
    if contract and contract not in CONTRACTS:
        hint = nearest(contract[:100], CONTRACTS)
        raise InvalidPipeline("contract", f"{contract[:100]!r} is not known{hint}; there are {', '.join(CONTRACTS)}")


def _check_paddlex(contract: str, inputs: Mapping[str, Type], outputs: Mapping[str, Type]) -> None:
    """Its clients send a file and other fields, and get a result."""
    files = [name for name in ("image", "file") if name in inputs]
    if len(files) != 1:
        raise InvalidPipeline(
            "inputs", f"clients of {contract} send one file: name one input `image` (or `file`), of bytes"
        )
    if inputs[files[0]].kind not in ("any", "bytes"):
        raise InvalidPipeline(f"inputs.{files[0]}", f"is {inputs[files[0]]}; clients of {contract} send bytes")
    for name in inputs.keys() - {*files, "parameters"}:
        raise InvalidPipeline(
            f"inputs.{name}",
            f"clients of {contract} send no {name[:100]!r}: their other fields are JSON in `parameters`",
        )
    if "result" not in outputs:
        raise InvalidPipeline(
            "outputs",
            f"clients of {contract} get the output `result`, which is JSON: name one; there are {', '.join(outputs)}",
        )


def _check_samples(pipeline: Pipeline) -> None:
    inputs = pipeline.graph.inputs
    for index, sample in enumerate(pipeline.samples):
        for name in sample:
            if name not in inputs:
                hint = nearest(name[:100], inputs)
                raise InvalidPipeline(
                    f"samples[{index}].{name[:100]}", f"the pipeline has no input {name[:100]!r}{hint}"
                )
        for name in inputs:
            if name not in sample:
                raise InvalidPipeline(f"samples[{index}]", f"no file for the input {name!r}")


def _check_batched(side: str, found: Mapping[str, Type]) -> None:
    for name, type_ in found.items():
        if type_.kind not in ("any", "tensor") or type_.shape == ():
            raise InvalidPipeline(
                f"{side}.{name}", f"is {type_}; with `batched: true`, each value is a tensor with the batch in front"
            )
