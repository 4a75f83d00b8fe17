"""What a model takes and gives as the signature of a SavedModel, in JSON.

Source: TensorFlow Serving's REST API, whose JSON is protobuf's with the fields' own names: 64-bit numbers are text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pdserver.dialects.tensorflow.data_types import DATA_TYPES
from pdserver.dialects.tensorflow.request import SIGNATURE
from pdserver.dialects.tensorflow.served import version_shown
from pdserver.engine.catalogue import ServedVersion, interface_of
from pdserver.types import Port

Json = dict[str, Any]
METHOD = "tensorflow/serving/predict"


def metadata_json(served: ServedVersion) -> Json:
    """Raises Unavailable until the model has been loaded."""
    interface = interface_of(served)
    signature = {
        "inputs": _tensors(interface.inputs),
        "outputs": _tensors(interface.outputs),
        "method_name": METHOD,
        "defaults": {},
    }
    spec = {"name": served.spec.name, "signature_name": "", "version": version_shown(served.spec.version)}
    return {"model_spec": spec, "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}}}


def _tensors(ports: Sequence[Port]) -> Json:
    return {
        port.name: {
            "dtype": DATA_TYPES[port.dtype].name,
            "tensor_shape": _shape(port),
            "name": port.source or port.name,
        }
        for port in ports
    }


def _shape(port: Port) -> Json:
    dims = [] if port.any_rank else [{"size": str(size), "name": ""} for size in port.shape]
    return {"dim": dims, "unknown_rank": port.any_rank}
