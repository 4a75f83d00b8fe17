"""Several models in a row, which look like one: the outputs of each are the inputs of the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import msgspec
import orjson

from pdarchiver import manifest, model
from pdarchiver.errors import ArchiveError
from pdarchiver.manifest import Signature
from pdarchiver.names import path_problem
from pdserver.errors import ArchiveUnusable, ConfigError
from pdserver.handlers.context import Context
from pdserver.handlers.runtime import joints, sections, shapes
from pdserver.handlers.runtime.described import Described
from pdserver.handlers.runtime.engines.candidates import ModelFiles
from pdserver.handlers.runtime.model import conditions
from pdserver.handlers.runtime.padding import Padding
from pdserver.handlers.runtime.predictor import Predictor
from pdserver.handlers.runtime.predictor_settings import PredictorSettings
from pdserver.handlers.runtime.rows import Arrays
from pdserver.handlers.runtime.rowwise.proof import FirstAxis
from pdserver.handlers.runtime.trial.of_model import Conditions
from pdserver.types import RunningEngine


class SequenceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section `sequence` of a model's own YAML."""

    models: tuple[str, ...] = ()
    """Folders of the archive, in the order in which their models run."""


class Chain:
    """Has of `Predictor` what handlers use. `links` are the models with their signatures, at least one, and `names`
    what people call them."""

    fixed_batch_size = None

    def __init__(self, names: Sequence[str], links: Sequence[tuple[Predictor, Signature]]) -> None:
        self._names = names
        self._first, *self._others = links
        self.padding: Padding | None = None
        """As a Predictor has it."""

    @property
    def engines(self) -> tuple[RunningEngine, ...]:
        """As a Predictor has it, of each model."""
        of_each = [predictor.engines for predictor, _ in (self._first, *self._others)]
        named = zip(self._names, of_each, strict=True)
        return tuple(msgspec.structs.replace(engine, model=name) for name, engines in named for engine in engines)

    @property
    def may_give_way(self) -> bool:
        """As a Predictor has it, of any model."""
        return any(predictor.may_give_way for predictor, _ in (self._first, *self._others))

    def run(self, inputs: Arrays) -> Arrays:
        """The outputs of the last model for the inputs of the first. Raises what `Predictor.run` raises."""
        return self._run(inputs) if self.padding is None else self.padding.run(self._run, inputs)

    def _run(self, inputs: Arrays) -> Arrays:
        arrays = self._first[0].run(inputs)
        for predictor, signature in self._others:
            arrays = predictor.run({spec.name: arrays[spec.name] for spec in signature.inputs})
        return arrays

    def allow(self, batch_sizes: tuple[int, ...]) -> None:
        """As a Predictor has it, for each model."""
        for predictor, _ in (self._first, *self._others):
            predictor.allow(batch_sizes)

    def first_axis(self, output: str) -> FirstAxis:
        """What the first axis of an output of the last model is, if that of every input of the first is the batch."""
        found = set(self._all(lambda predictor, source: predictor.first_axis(source), output))
        return "batch" if found == {"batch"} else "other" if "other" in found else "unknown"

    def sized_by_data(self, output: str) -> bool:
        return any(self._all(lambda predictor, source: predictor.sized_by_data(source), output))

    def because_of(self, output: str) -> str:
        return next(filter(None, self._all(lambda predictor, source: predictor.because_of(source), output)), "")

    def ids_below(self, input_source: str) -> int | None:
        return self._first[0].ids_below(input_source)

    def _all(self, ask: Callable[[Predictor, str], Any], output: str) -> list[Any]:
        """What each model says of those of its outputs on which `output`, one of the last model, may depend."""
        predictors, signatures = zip(self._first, *self._others, strict=True)
        needed = [
            [spec.source for spec in before.outputs if spec.name in {wanted.name for wanted in after.inputs}]
            for before, after in pairwise(signatures)
        ]
        asked = zip(predictors, [*needed, [output]], strict=True)
        return list(chain.from_iterable([ask(predictor, source) for source in sources] for predictor, sources in asked))


def load(context: Context) -> tuple[Chain, Signature]:
    """The models that the section `sequence` names. Raises ConfigError, ArchiveUnusable and what `Predictor` raises."""
    config, device_id = context.model_yaml_config, context.system_properties["gpu_id"]
    directory = Path(context.system_properties["model_dir"])
    names = sections.read(SequenceSettings, "sequence", config).models
    if not names:
        raise ConfigError(
            "sequence.models: name the folders of the models, such as sequence: {models: [first, second]}"
        )
    found = [_find(directory, name) for name in names]
    signature = joints.signature_of([(name, described) for name, (_, described) in zip(names, found, strict=True)])
    running = shapes.settings(context, signature)
    # All are described, and their engines tried, before the first one is loaded.
    described = [
        Described(
            ModelFiles(files.model, files.params, own),
            running,
            device_id,
            _conditions(context, name, running, is_first=name == names[0]),
            untried="is one of several in a row",
        )
        for name, (files, own) in zip(names, found, strict=True)
    ]
    links = [(Predictor(each), each.files.signature) for each in described]
    return Chain(names, links), signature


def _conditions(context: Context, name: str, running: PredictorSettings, *, is_first: bool) -> Conditions | None:
    """The archive's samples and its warm-up are for the first model; the others' inputs are made up."""
    checksums = manifest.parse(orjson.dumps(context.manifest)).files
    found = conditions(context, checksums)
    if found is None or running.precision == "auto":
        return None
    config = {key: value for key, value in found.config.items() if is_first or key not in ("samples", "warmup")}
    return replace(found, part=name, config=config)


def _find(directory: Path, name: str) -> tuple[model.ModelFiles, Signature]:
    if problem := path_problem(name):
        raise ConfigError(f"sequence.models: {name[:200]!r} {problem}")
    try:
        files = model.find(directory / name, None, where="")
        signature = model.read_signature(files)
    except (ArchiveError, OSError) as error:
        raise ArchiveUnusable(f"sequence.models: {name}: {str(error).replace(f'{directory}/', '')}") from None
    if files.declared is not None:
        raise ConfigError(f"sequence.models: {name}: encrypted, which models in a row can't be: name the plain one")
    return files, signature
