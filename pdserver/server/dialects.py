"""The dialects that the server speaks, one line for each."""

from __future__ import annotations

from pdserver import plugins
from pdserver.configuration.server import Config
from pdserver.dialects.dialect import Dialect
from pdserver.dialects.oip import dialect as oip
from pdserver.dialects.oip.protocol import OpenInference
from pdserver.dialects.oip.rest import infer_target
from pdserver.dialects.paddle import dialect as paddle
from pdserver.dialects.paddlex import dialect as paddlex
from pdserver.dialects.tensorflow import dialect as tensorflow
from pdserver.dialects.tensorflow.control import Control
from pdserver.dialects.tensorflow.target import kserve_target
from pdserver.dialects.torchserve import dialect as torchserve
from pdserver.dialects.torchserve.rest import kserve_door, open_inference_door


def spoken(config: Config, protocol: OpenInference, control: Control, *, details: bool) -> dict[str, list[Dialect]]:
    """The dialects of each port, by its name. Ports without one use the error texts of the first one of `inference`.
    `control` is TensorFlow Serving's."""
    engine, codec = protocol.engine, protocol.codec
    dialects = [
        torchserve.dialect(engine, codec, sequence_header=config.ts_header_key_sequence_id, details=details),
        oip.dialect(protocol, open_inference_door(codec, infer_target)),
        tensorflow.dialect(
            engine,
            control,
            codec,
            kserve_door(codec, kserve_target),
            as_content=config.tensorflow_tensor_content,
            limit_bytes=config.max_request_bytes,
        ),
        *plugins.dialects(engine),  # before Pipeline's door, which takes any method of a model
        paddlex.dialect(engine, codec, image_urls=config.image_urls, limit_bytes=config.max_request_bytes),
        paddle.dialect(engine, codec, default_model=config.paddle_serving_model, limit_bytes=config.max_request_bytes),
    ]
    by_name = {dialect.name: [dialect] for dialect in dialects}
    return {
        **dict.fromkeys(("inference", "grpc_inference"), dialects),
        **dict.fromkeys(("oip", "oip_grpc"), by_name[oip.NAME]),
        **dict.fromkeys(("tensorflow", "tensorflow_grpc"), by_name[tensorflow.NAME]),
        "paddle_serving": by_name[paddle.NAME],
    }
