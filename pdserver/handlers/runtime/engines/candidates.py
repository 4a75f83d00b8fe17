"""Which engines may run a model, and in which order they come."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pdarchiver.manifest import Signature
from pdserver.errors import ConfigError, LoadFailed
from pdserver.handlers.runtime.engines import precisions
from pdserver.handlers.runtime.engines.base import Candidate, EngineName, Precision
from pdserver.handlers.runtime.predictor_settings import PredictorSettings

_READS: dict[EngineName, tuple[str, ...]] = {
    "paddle": (".json", ".pdmodel", ""),
    "onnxruntime": (".onnx",),
    "openvino": (".onnx", ".pdmodel"),
}
"""The suffixes of what each engine reads, in the order in which `auto` tries them. "" is __model__ of Paddle 1."""


@dataclass(frozen=True)
class Converted:
    """The model in ONNX's form, made from the original before it was packed."""

    model_file: Path
    signature: Signature
    """With the names that inputs and outputs have there as sources."""


@dataclass(frozen=True)
class ModelFiles:
    """A model as engines read it."""

    model: Path
    """PIR's .json, .pdmodel, __model__ or .onnx."""
    params: Path | None
    signature: Signature
    converted: Converted | None = None

    def suffixes(self) -> set[str]:
        return {self.model.suffix} if self.converted is None else {self.model.suffix, self.converted.model_file.suffix}

    def candidate(self, engine: EngineName, precision: Precision) -> Candidate:
        """Of an engine that reads one of the forms."""
        if self.converted is None or self.model.suffix in _READS[engine]:
            return Candidate(engine, self.model, self.params, self.signature, precision)
        return Candidate(engine, self.converted.model_file, None, self.converted.signature, precision)


@dataclass(frozen=True)
class Candidates:
    """The candidates to run one model."""

    wanted: tuple[Candidate, ...]
    """What the settings allow, the first choice first; at least one."""
    reference: Candidate
    """Whose answers are right: Paddle's in float32 where Paddle reads the model. It need not be wanted."""
    named: bool
    """Whether the settings name the engine."""

    def untried(self) -> list[Candidate]:
        """The ones to load where there was no trial, one after the other until one can: never one whose answers
        nobody has compared with Paddle's, unless the settings name it."""
        first = self.wanted[0]
        if self.named:
            return [first]
        if first.engine == "paddle":
            return [first] if first == self.reference else [first, self.reference]
        return [each for each in self.wanted if each.precision == first.precision]

    def tried(self, chosen: str, right: Collection[str] = ()) -> list[Candidate]:
        """The same where a trial has chosen one, by its text. `right`: the texts of those whose answers were right."""
        spare = self.wanted[0] if self.named else self.reference
        best = next((each for each in self.wanted if str(each) == chosen), spare)
        left = [best, spare]
        if not self.named and spare.engine != "paddle":  # where Paddle fails, it is the model's fault
            left += [each for each in self.wanted if str(each) in right]
        return [each for place, each in enumerate(left) if each not in left[:place]]


def find(files: ModelFiles, settings: PredictorSettings, device_id: int | None) -> Candidates:
    """How the settings allow the model to be run.

    Raises ConfigError for an engine or a precision that can't be, LoadFailed when no engine for it is installed.
    """
    suffixes = files.suffixes()
    reading = [engine for engine, able in _READS.items() if suffixes.intersection(able)]
    named: EngineName | None = None if settings.engine == "auto" else settings.engine
    if named is not None:
        _check(named, reading, files.model, device_id)
    if device_id is not None and "paddle" not in reading:
        raise ConfigError(f"{files.model.name}: .onnx models run on CPUs: set deviceType to cpu")
    allowed = precisions.wanted(settings, files.model, device_id)
    able = _able(reading if named is None else [named], allowed, settings)
    if not able:
        raise ConfigError(_no_engine(named, reading, allowed[0], files.model))
    if named is None and device_id is not None:
        able = [pair for pair in able if pair[0] == "paddle"]
    there = [pair for pair in able if pair[0] == "paddle" or find_spec(pair[0])]
    if not there:
        raise LoadFailed(_not_installed(named, [engine for engine, _ in able], allowed[0], files.model))
    wanted = tuple(files.candidate(engine, precision) for engine, precision in there)
    reference: EngineName = "paddle" if "paddle" in reading and find_spec("paddle") else there[0][0]
    return Candidates(wanted, files.candidate(reference, "float32"), named is not None)


def _able(
    engines: Sequence[EngineName], allowed: Sequence[Precision], settings: PredictorSettings
) -> list[tuple[EngineName, Precision]]:
    """Precision by precision, the engines that compute in it."""
    return [
        (engine, precision)
        for precision in allowed
        for engine in engines
        if precision in precisions.ABLE[engine]
        and not (engine == "paddle" and precision != "float32" and settings.onednn is False)
    ]


def _check(engine: EngineName, reading: Sequence[str], model_file: Path, device_id: int | None) -> None:
    """Raises ConfigError for an engine that the settings name."""
    at = f"predictor.engine: {engine}"
    if engine not in reading:
        reads = ", ".join(suffix for suffix in _READS[engine] if suffix)
        fix = f"; say {' or '.join(reading)}, or auto" if reading else ""
        raise ConfigError(f"{at}: it reads {reads}, and the model is {model_file.name}{fix}")
    if device_id is not None and engine != "paddle":
        raise ConfigError(f"{at}: it runs on CPUs here: set deviceType to cpu, or leave predictor.engine out")


def _no_engine(named: EngineName | None, reading: Sequence[EngineName], precision: Precision, model_file: Path) -> str:
    others = [engine for engine in reading if precision in precisions.ABLE[engine]]
    if named is not None:
        does = f"; {', '.join(others)} does" if others else ""
        return f"predictor.engine: {named}: it does not compute{_in(precision)} on CPUs{does}"
    does = " and ".join(engine for engine, able in precisions.ABLE.items() if precision in able)
    return (
        f"predictor.precision: {precision}: only {does} computes in it, which does not read {model_file.name}: say "
        "float32 or bfloat16, or pack the model with --optimize"
    )


def _not_installed(named: EngineName | None, able: Sequence[EngineName], precision: Precision, model_file: Path) -> str:
    install = f"pip install 'pdserver[{able[0]}]'"
    if named is not None:
        return f"predictor.engine: {named}: it is not installed: {install}"
    wanted = " and ".join(dict.fromkeys(able))
    return f"{model_file.name}: no engine that reads it{_in(precision)} is installed ({wanted}): {install}"


def _in(precision: Precision) -> str:
    return "" if precision == "float32" else f" in {precision}"
