"""A model before it is loaded: what its operations show, and which engines may run it, in which order."""

from __future__ import annotations

from functools import partial

from pdarchiver import onnx_model, operations
from pdarchiver import signature as signatures
from pdarchiver.errors import InvalidModel, UnsafeModel
from pdserver.errors import ArchiveUnusable, ConfigError
from pdserver.handlers.runtime.engines.base import Candidate
from pdserver.handlers.runtime.engines.candidates import Candidates, ModelFiles, find
from pdserver.handlers.runtime.engines.ways import load_any
from pdserver.handlers.runtime.predictor_settings import PredictorSettings
from pdserver.handlers.runtime.rowwise.proof import of_file
from pdserver.handlers.runtime.trial.choice import Choice
from pdserver.handlers.runtime.trial.of_model import Conditions, choose

_UNTRIED = (
    "predictor.precision: auto: only a trial can choose one, and none is made of this model, which {reason}: name a "
    "precision"
)


def _tried(found: Candidates, choice: Choice) -> list[Candidate]:
    figures = choice.outcome.figures if choice.outcome else ()
    return found.tried(choice.chosen.name, [each.engine for each in figures if not each.out])


class Described:
    """A model before it is loaded. `device_id` is a GPU's number, None for the CPU.

    This is where engines are tried. All models of one process are described before the first of them is loaded, since
    a process that has loaded an engine can't try others.
    """

    def __init__(
        self,
        files: ModelFiles,
        settings: PredictorSettings,
        device_id: int | None,
        conditions: Conditions | None = None,
        untried: str = "is not served from an archive",
    ) -> None:
        """Without `conditions`, no engines are tried, because the model is what `untried` says.

        Raises ArchiveUnusable for files that are missing or of another kind, ConfigError for settings that cannot be,
        LoadFailed when no engine for the model is installed.
        """
        self.files, self.settings, self.device_id = files, settings, device_id
        self._check_files()
        try:
            signatures.check_dtypes(files.signature)
        except InvalidModel as error:
            raise ArchiveUnusable(f"{files.model.name}: {error}") from None
        self.proof = of_file(files.model, files.signature.inputs)
        found = find(files, settings, device_id)
        self.choice = self._choice(found, conditions, untried)
        """None: there was no trial."""
        self.order: list[Candidate] = found.untried() if self.choice is None else _tried(found, self.choice)
        """The candidates to load, one after the other until one can."""

    def _choice(self, found: Candidates, conditions: Conditions | None, untried: str) -> Choice | None:
        if conditions is not None:
            load = partial(load_any, settings=self.settings, device_id=self.device_id)
            try:
                chosen = choose(found, load, self.settings, self.proof.ids_below, conditions, self._check_operations)
            except UnsafeModel:
                untried = "does more than compute"  # when clients ask it to, and not to be measured
            else:
                return chosen if chosen and chosen.outcome else None
        if self.settings.precision == "auto":
            raise ConfigError(_UNTRIED.format(reason=untried))
        return None

    def _check_operations(self) -> None:
        """Raises UnsafeModel for a model that does more than compute."""
        check = onnx_model.check if self.files.model.suffix == onnx_model.SUFFIX else operations.check
        with self.files.model.open("rb") as file:
            check(file)

    def _check_files(self) -> None:
        model = self.files.model
        for file in filter(None, (model, self.files.params)):
            if not file.is_file():
                raise ArchiveUnusable(f"{file.name}: no such file in the archive")
        if model.suffix == onnx_model.SUFFIX:
            self._check_onnx()
        if model.suffix == ".json" and self.settings.memory_optim is True:
            raise ConfigError("predictor.memory_optim: true: Paddle cannot do this for .json models; leave it out")

    def _check_onnx(self) -> None:
        """The same for all engines, in the words of those who pack it."""
        model = self.files.model
        with model.open("rb") as file:
            try:
                weights = onnx_model.outside(file).files
            except InvalidModel as error:
                raise ArchiveUnusable(f"{model.name}: {error}") from None
        if missing := [name for name in weights if not (model.parent / name).is_file()]:
            raise ArchiveUnusable(f"{model.name}: its weights are in {missing[0]}, which is not in the archive")
