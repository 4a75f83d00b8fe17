"""A model as ONNX Runtime loads and runs it, on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument

from pdarchiver import onnx_model
from pdserver.dtypes import BFLOAT16
from pdserver.errors import InvalidRequest, LoadFailed
from pdserver.handlers.runtime.engines.base import Candidate
from pdserver.handlers.runtime.rows import Arrays

_FATAL_ALONE = 4
"""What it logs. It raises errors, and logs them as well, for everything that is wrong with inputs."""


@dataclass
class OnnxRuntimeModel:
    """A session, and the names that it has for inputs and outputs, by the public ones."""

    session: Any
    inputs: dict[str, str]
    outputs: dict[str, str]

    def run(self, inputs: Arrays) -> Arrays:
        """As Engine says. Raises InvalidRequest for numbers and shapes that an operation can't take."""
        given = {source: inputs[name] for name, source in self.inputs.items()}
        try:
            found = self.session.run(list(self.outputs.values()), given)
        except (Fail, InvalidArgument) as error:
            reason = str(error).rpartition("Status Message: ")[2]
            raise InvalidRequest(f"the model cannot run with these inputs: {reason}") from None
        return dict(zip(self.outputs, found, strict=True))

    def close(self) -> None:
        """As Engine says."""
        self.session = None


def load(candidate: Candidate, threads: int) -> OnnxRuntimeModel:
    """Raises LoadFailed for types that it does not take from numpy, and whatever ONNX Runtime raises; InvalidModel for
    weights outside the model's folder."""
    onnx_model.read(candidate.model_file)  # older ones read any file that the model names
    signature = candidate.signature
    for spec in (*signature.inputs, *signature.outputs):
        if spec.dtype == BFLOAT16:
            raise LoadFailed(f'"{spec.name}" is bfloat16, which ONNX Runtime neither takes from numpy nor gives it')
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL_ALONE
    session = onnxruntime.InferenceSession(str(candidate.model_file), options, providers=["CPUExecutionProvider"])
    inputs, outputs = ({spec.name: spec.source for spec in side} for side in (signature.inputs, signature.outputs))
    return OnnxRuntimeModel(session, inputs, outputs)
