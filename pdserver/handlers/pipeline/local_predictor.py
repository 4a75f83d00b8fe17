"""A model's folder of Paddle Serving, loaded and run in this process.

Names and arguments are those of local_predict.py of paddle_serving_app 0.9.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pdarchiver import encryption
from pdarchiver import model as models
from pdarchiver.errors import ArchiveError
from pdarchiver.manifest import TensorSpec
from pdserver.dtypes import BFLOAT16
from pdserver.errors import ArchiveUnusable, HandlerFailed
from pdserver.formats.values import nearest, shown
from pdserver.handlers.pipeline.config import CPU, GPU, TENSORRT, ModelKeys
from pdserver.handlers.pipeline.settings import predictor
from pdserver.handlers.runtime.decrypted import Decrypted
from pdserver.handlers.runtime.predictor_settings import PredictorSettings
from pdserver.handlers.runtime.rows import Array, Arrays

if TYPE_CHECKING:
    from pdserver.handlers.runtime.predictor import Predictor


class LocalPredictor:
    """One model. It belongs to the thread that has loaded it."""

    def __init__(self) -> None:
        self.feed_names_: list[str] = []
        self.fetch_names_: list[str] = []
        """The public names of inputs and outputs."""
        self._inputs: dict[str, TensorSpec] = {}
        self._outputs: dict[str, TensorSpec] = {}
        """By public name, and by the model's own."""
        self._model: Predictor | None = None
        self._hidden: Decrypted | None = None
        """An encrypted model in the clear: Paddle may read it again later."""
        self.keeps_rows = False
        """Whether nothing speaks against giving the rows of several requests to the model at once."""

    def load_model_config(
        self,
        model_path: str,
        use_gpu: bool = False,
        gpu_id: int | str = 0,
        use_profile: bool = False,
        thread_num: int = 1,
        mem_optim: bool = True,
        ir_optim: bool = True,
        use_trt: bool = False,
        use_lite: bool = False,
        use_xpu: bool = False,
        precision: str = "fp32",
        use_mkldnn: bool | None = None,
        mkldnn_cache_capacity: int = 0,
        mkldnn_op_list: Sequence[str] | None = None,
        mkldnn_bf16_op_list: Sequence[str] | None = None,
        use_feed_fetch_ops: bool = False,
        use_ascend_cl: bool = False,
        min_subgraph_size: int = 3,
        dynamic_shape_info: Mapping[str, Mapping[str, list[int]]] | None = None,
        use_calib: bool = False,
    ) -> None:
        """Load the model in the folder `model_path`. `precision` has an effect with `use_trt`.

        Raises ArchiveUnusable for a folder without a model, and for devices that are not served; LoadFailed when Paddle
        can't load it.
        """
        if use_lite or use_xpu or use_ascend_cl:
            raise ArchiveUnusable("use_lite, use_xpu and use_ascend_cl are not served: use the CPU, or use_gpu")
        keys = ModelKeys(
            device_type=(TENSORRT if use_trt else GPU) if use_gpu else CPU,
            thread_num=thread_num,
            mem_optim=mem_optim,
            ir_optim=ir_optim,
            use_mkldnn=use_mkldnn,
            mkldnn_cache_capacity=mkldnn_cache_capacity,
            precision=precision,
            min_subgraph_size=min_subgraph_size,
        )
        settings = predictor(keys, dynamic_shape_info or {})
        self.load(Path(model_path), settings, int(gpu_id) if use_gpu else None)

    def load(self, folder: Path, settings: PredictorSettings, device_id: int | None, key: bytes = b"") -> None:
        """The same with this server's settings. `device_id` is a GPU's number, None for the CPU. `key` is that of an
        encrypted model."""
        # Imported here, so that the operator's script can import this class without Paddle.
        from pdserver.handlers.runtime.described import Described
        from pdserver.handlers.runtime.engines.candidates import ModelFiles
        from pdserver.handlers.runtime.predictor import Predictor

        try:
            files = models.find(folder, None, where="")
            if files.params is None:
                files = models.with_one_weights_file(files, Path(tempfile.mkdtemp(prefix="weights-")))
            signature = models.read_signature(files, "; copy the whole folder")
        except ArchiveError as error:
            raise ArchiveUnusable(str(error)) from None
        model, params = files.model, files.params
        if encryption.is_encrypted(model.name):
            self._hidden = Decrypted(model, params, signature, key)
            model, params, signature = self._hidden.model, self._hidden.params, self._hidden.signature
        self._model = Predictor(Described(ModelFiles(model, params, signature), settings, device_id))
        self._inputs = _by_both_names(signature.inputs)
        self._outputs = _by_both_names(signature.outputs)
        self.feed_names_ = [spec.name for spec in signature.inputs]
        self.fetch_names_ = [spec.name for spec in signature.outputs]
        sources = [spec.source for spec in signature.outputs]
        self.keeps_rows = not any(
            self._model.first_axis(source) == "other" or self._model.sized_by_data(source) for source in sources
        )

    def check_fetch(self, fetch: Sequence[str]) -> None:
        """Raises HandlerFailed for a name that no output has."""
        for name in fetch:
            if name not in self._outputs:
                raise HandlerFailed(
                    f'the model has no output "{shown(name)}"{nearest(name, self._outputs)}; its outputs are '
                    f"{', '.join(self.fetch_names_)}"
                )

    def predict(
        self,
        feed: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        fetch: Sequence[str] | str | None = None,
        batch: bool = False,
        log_id: int = 0,
    ) -> Arrays:
        """The outputs that `fetch` names, by these names; all for None. `batch`: the arrays have a first axis for it.

        Arrays are converted to the model's dtypes. Raises HandlerFailed for names that the model does not have, and
        for what is no array of numbers.
        """
        if self._model is None:
            raise HandlerFailed("load_model_config comes first")
        if isinstance(feed, Sequence) and len(feed) == 1:
            feed = feed[0]
        if not isinstance(feed, Mapping):
            raise HandlerFailed("feed: expected a dict of arrays by the names of inputs")
        wanted = [fetch] if isinstance(fetch, str) else list(fetch or self.fetch_names_)
        self.check_fetch(wanted)
        inputs: Arrays = {}
        for name, value in feed.items():
            spec = self._inputs.get(name)
            if spec is None:
                raise HandlerFailed(self._unknown(name))
            inputs[spec.name] = _array(spec, value, batch=batch)
        outputs = self._model.run(inputs)
        return {name: outputs[self._outputs[name].name] for name in wanted}

    def _unknown(self, name: str) -> str:
        known = ", ".join(self.feed_names_)
        if name.endswith(".lod") and name.removesuffix(".lod") in self._inputs:
            return f'"{name}": sequences with a LoD are not run: fill them up to one length, for a model without LoD'
        return f'the model has no input "{shown(name)}"{nearest(name, self._inputs)}; its inputs are {known}'


def _by_both_names(specs: Sequence[TensorSpec]) -> dict[str, TensorSpec]:
    return {spec.source: spec for spec in specs} | {spec.name: spec for spec in specs}


def _array(spec: TensorSpec, value: Any, *, batch: bool) -> Array:
    """As the model takes it. A flat list has the shape of the model's folder."""
    try:
        array = np.asarray(value)
        if isinstance(value, list) and not batch and -1 not in spec.shape[1:]:
            array = array.reshape(spec.shape[1:])
        converted = array.astype(np.float32 if spec.dtype == BFLOAT16 else spec.dtype, copy=False)
    except (ValueError, TypeError) as error:
        raise HandlerFailed(f'"{spec.name}": expected an array of {spec.dtype}: {error}') from None
    return converted if batch else converted[None]
