"""Whether the rows of several requests may be given to a model at once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec

from pdarchiver.manifest import Signature, TensorSpec
from pdserver.errors import ConfigError
from pdserver.handlers.context import Context
from pdserver.handlers.runtime import padding, sections
from pdserver.handlers.runtime.padding import Padding
from pdserver.handlers.runtime.rowwise.proof import FirstAxis

if TYPE_CHECKING:
    from pdserver.handlers.runtime.chain import Chain
    from pdserver.handlers.runtime.predictor import Predictor

_log = logging.getLogger("pdserver.handlers")


class InterfaceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The section `interface` of a model's own YAML."""

    batched: bool | None = None
    """Whether the first axis is the batch. None: the model's operations decide."""
    labels: dict[str, list[str]] = {}
    """The names of the classes, by the output's name."""


@dataclass(frozen=True)
class Batching:
    """As it is, of a handler that runs its model in a way of its own, and so knows what it does."""

    first_axis: FirstAxis = "batch"
    """Of all outputs; other: of one at least."""
    outputs: Mapping[str, FirstAxis] | None = None
    """What is known of each, by its name; None: it was said of all."""
    ids_below: Mapping[str, int] = field(default_factory=dict)
    """Of inputs that are numbers of an embedding's rows, by their names: how many it has."""
    padding: Padding | None = None
    """How inputs are filled up, where the section `padding` says so. Their first axis is the batch, then."""

    def are_rows(self, output: str) -> bool:
        """Whether row i of the output depends on row i of the inputs alone."""
        return self.first_axis == "batch" if self.outputs is None else self.outputs[output] == "batch"


def of_model(context: Context, predictor: Predictor | Chain, signature: Signature) -> Batching:
    """As the sections `interface` and `padding` say, else as the model's operations show.

    Raises ConfigError when the first can't be true by the last, and for wrong settings.
    """
    found = _of_model(context, predictor, signature)
    filled = padding.of_model(
        context.model_yaml_config, signature, batched=found.first_axis == "batch", ids_below=found.ids_below
    )
    return replace(found, padding=filled)


def _of_model(context: Context, predictor: Predictor | Chain, signature: Signature) -> Batching:
    limits = {spec.name: predictor.ids_below(spec.source) for spec in signature.inputs}
    ids_below = {name: below for name, below in limits.items() if below is not None}
    said = sections.read(InterfaceSettings, "interface", context.model_yaml_config).batched
    if said is True and signature.inputs:
        for spec in (*signature.inputs, *signature.outputs):
            if not spec.shape:
                raise ConfigError(f'interface.batched: true: "{spec.name}" is a single value, without a batch')
        for spec in signature.outputs:
            if predictor.sized_by_data(spec.source):
                raise ConfigError(
                    f"interface.batched: true (of Triton's models: max_batch_size): how long the first axis of the "
                    f'output "{spec.name}" is depends on the data ({predictor.because_of(spec.source)}): it cannot be '
                    "the batch; say false"
                )
        return Batching(ids_below=ids_below)
    if said is False or not signature.inputs:
        return Batching("other", ids_below=ids_below)
    outputs = {spec.name: _first_axis(predictor, signature, spec) for spec in signature.outputs}
    kinds = set(outputs.values())
    found: FirstAxis = "batch" if kinds == {"batch"} else "other" if "other" in kinds else "unknown"
    if found != "batch" and context.system_properties["batch_size"] > 1:
        _warn(found, outputs, predictor, signature)
    return Batching(found, outputs, ids_below)


def allow(sizes: tuple[int, ...], batching: Batching, predictor: Predictor | Chain) -> None:
    """The setting `allowedBatchSizes`: rows can be added to a batch only where they change nothing in the others."""
    if sizes and batching.first_axis == "batch":
        predictor.allow(sizes)
    elif sizes:
        _log.warning(
            "allowedBatchSizes has no effect: it is not known that row i of the outputs depends on row i of the inputs "
            "alone; if it does, say so in the model's config file: interface: {batched: true}"
        )


def fill(batching: Batching, predictor: Predictor | Chain) -> None:
    """The section `padding`: the engine is given inputs of few lengths."""
    predictor.padding = batching.padding


def _first_axis(predictor: Predictor | Chain, signature: Signature, output: TensorSpec) -> FirstAxis:
    if len({spec.shape[:1] for spec in signature.inputs}) != 1 or not all(spec.shape for spec in signature.inputs):
        return "other"  # the inputs share no axis
    if not output.shape:
        return "other"
    return predictor.first_axis(output.source)


def _warn(
    found: FirstAxis, outputs: Mapping[str, FirstAxis], predictor: Predictor | Chain, signature: Signature
) -> None:
    spec = next(spec for spec in signature.outputs if outputs[spec.name] == found)
    operation = predictor.because_of(spec.source)
    reason = f" (operation {operation})" if operation else ""
    known = "its first axis is not the batch" if found == "other" else "it is not known that its rows are the inputs'"
    _log.warning(
        "requests run one by one, unless the handler itself takes them together, because of the output "
        '"%s": %s%s; interface.batched: true or false in the model\'s config file says it',
        spec.name,
        known,
        reason,
    )
