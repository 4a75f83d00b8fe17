"""The command `pdserver optimize`: puts into an archive what other engines read, and how fast each runs the model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from pdarchiver import display, modelconfig, to_onnx
from pdarchiver.errors import ArchiveError
from pdarchiver.manifest import Manifest
from pdarchiver.optimize import Optimized, optimize
from pdarchiver.usage import Parser
from pdserver.errors import ArchiveUnusable
from pdserver.handlers.runtime import sections
from pdserver.handlers.runtime.described import Described
from pdserver.handlers.runtime.engines.candidates import ModelFiles
from pdserver.handlers.runtime.model import converted
from pdserver.handlers.runtime.predictor_settings import PredictorSettings
from pdserver.handlers.runtime.trial.memory import Memory, circumstances, processor_name
from pdserver.handlers.runtime.trial.of_model import Conditions
from pdserver.system.standard_streams import say

_ROWS = 8
_INPUTS = {
    "samples": "the archive's samples",
    "warmup": "what the archive's section warmup asks",
    "made": "inputs that were made up: the section samples of the archive's config file names better ones",
}


def main(argv: Sequence[str]) -> int:
    """Returns the exit status. Raises ArchiveUnusable for an archive that can't be optimized, ConfigError for wrong
    settings in it."""
    parser = Parser(
        prog="pdserver optimize",
        usage="pdserver optimize ARCHIVE [--batch-size N] [--seconds N]",
        description="Convert an archive's model for other engines, try those that are installed, and put what was made "
        "and what was measured into the archive. A server makes its own trial; this one is for people.",
    )
    add = parser.add_argument
    add("archive", type=Path, help="a .pdar or .tar.gz file, or a folder, that pd-model-archiver has packed")
    add("--batch-size", type=int, metavar="N", help=f"rows to try besides one; default: its batchSize, else {_ROWS}")
    add("--seconds", type=float, default=to_onnx.SECONDS, metavar="N", help="for converting; default: %(default)g")
    found = parser.parse_args(argv)
    warnings.filterwarnings("ignore", module=r"paddle\.")  # of compilers that nobody here needs
    if (found.batch_size is not None and found.batch_size < 1) or found.seconds <= 0:
        parser.error("--batch-size and --seconds: must be more than 0")
    try:
        done = optimize(found.archive, found.seconds, measure=partial(_measured, rows=found.batch_size))
    except (ArchiveError, OSError) as error:
        raise ArchiveUnusable(str(error)) from None
    say(display.optimized(done))
    for line in _lines(done):
        say(line)
    return 0


def _measured(folder: Path, manifest: Manifest, rows: int | None) -> Mapping[str, Any]:
    """What the manifest's section `measured` says: the machine, and each engine's figures for its batch sizes."""
    assert manifest.serialized_file is not None  # noqa: S101 (`optimize` has checked it)
    assert manifest.signature is not None  # noqa: S101
    file, params = folder / manifest.serialized_file, manifest.params_file
    config = modelconfig.read(folder / manifest.config_file) if manifest.config_file else {}
    settings = sections.read(PredictorSettings, "predictor", config)
    said = config.get("batchSize")
    rows = rows or (said if isinstance(said, int) and said > 0 else _ROWS)
    made = converted(folder, manifest, manifest.signature)
    files = ModelFiles(file, folder / params if params else None, manifest.signature, made)
    conditions = Conditions(Memory(None), rows, manifest.files, folder, config, has_threads=True)
    described = Described(files, settings, None, conditions)
    outcome = described.choice.outcome if described.choice else None
    machine = {**circumstances(), "processor": processor_name()}
    if outcome is None:
        return {**machine, "chosen": str(described.order[0]), "batchSizes": [], "engines": []}
    figures = [msgspec.to_builtins(each) for each in outcome.figures]
    found = {"inputs": outcome.inputs, "batchSizes": list(outcome.sizes), "engines": figures}
    return {**machine, "chosen": str(described.order[0]), **found}


def _lines(done: Optimized) -> list[str]:
    """The figures, for people."""
    measured = done.manifest.measured or {}
    if not measured.get("engines"):
        return ["nothing was measured: only one of the installed engines reads the model, or it does not run"]
    width = 3 + max(len(each["engine"]) for each in measured["engines"])
    lines = [f"{'batch size':<{width}}" + "".join(f"{size:>12}" for size in measured["batchSizes"]) + "  difference"]
    for each in measured["engines"]:
        name = each["engine"] + (" *" if each["engine"] == measured["chosen"] else "")
        told = "".join(f"{milliseconds:>9.3g} ms" for milliseconds in each.get("milliseconds", ()))
        difference = each.get("difference")
        told += f"{difference:>12.1e}" if told and difference is not None else ""
        lines.append(f"{name:<{width}}{told or 'out: ' + each['out']}")
    return [*lines, f"tried with {_INPUTS[measured['inputs']]}; * is the one that a server would choose here"]
