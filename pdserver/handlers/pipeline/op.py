"""What a user's web service is made of: Ops between one that takes a request apart and one that packs its answer.

Names, arguments and hooks are those of pipeline/operator.py of paddle_serving_server 0.9.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pdserver.errors import ConfigError
from pdserver.handlers.pipeline.failures import CustomExceptionCode, OpFailed

if TYPE_CHECKING:
    from pdserver.handlers.pipeline.local_predictor import LocalPredictor

READER = "@DAGExecutor"
"""The name under which Ops that come first find the request."""
_numbers = itertools.count()


class Op:
    """One step of a web service: `preprocess`, the model's run, `postprocess`. Users override the hooks.

    What the constructor is given goes before what config.yml says of the Op.
    """

    client: LocalPredictor | None = None
    """The Op's model, in a worker; None for an Op without one."""
    concurrency_idx: int | None = None
    """There, the number of the Op's process. A worker here does not know how many others there are."""
    _fetch_names: tuple[str, ...] = ()

    def __init__(
        self,
        name: str | None = None,
        input_ops: Sequence[Op] | Op | None = (),
        server_endpoints: list[str] | None = None,
        fetch_list: list[str] | None = None,
        client_config: str | None = None,
        client_type: str | None = None,
        concurrency: int | None = None,
        timeout: int | None = None,
        retry: int | None = None,
        batch_size: int | None = None,
        auto_batching_timeout: int | None = None,
        local_service_handler: object = None,
        jump_to_ops: Sequence[Op] | Op | None = (),
    ) -> None:
        """Raises ConfigError for Ops that are none, and for what has no counterpart here."""
        self.name = name or f"op_{next(_numbers)}"
        given = {
            "server_endpoints": server_endpoints,
            "fetch_list": fetch_list,
            "client_config": client_config,
            "client_type": client_type,
            "concurrency": concurrency,
            "timeout": timeout,
            "retry": retry or None,
            "batch_size": batch_size,
            "auto_batching_timeout": auto_batching_timeout,
        }
        self._arguments = {key: value for key, value in given.items() if value is not None}
        self.set_input_ops(input_ops)
        self.set_jump_to_ops(jump_to_ops)
        self.dynamic_shape_info: dict[str, dict[str, list[int]]] = {}
        self.set_dynamic_shape_info()
        if local_service_handler is not None:
            raise ConfigError(
                f"Op {self.name}: local_service_handler: name the model in config.yml, as"
                f" op.{self.name}.local_service_conf.model_config"
            )

    def get_input_ops(self) -> list[Op]:
        return list(self._input_ops)

    def set_input_ops(self, ops: Sequence[Op] | Op | None) -> None:
        """Raises ConfigError."""
        self._input_ops = _as_ops(self.name, "input_ops", ops)

    def get_jump_to_ops(self) -> list[Op]:
        return list(self._jump_to_ops)

    def set_jump_to_ops(self, ops: Sequence[Op] | Op | None) -> None:
        """When `check_jumping` says True, the answer goes to the Ops behind these. Raises ConfigError."""
        self._jump_to_ops = _as_ops(self.name, "jump_to_ops", ops)

    def is_jump_op(self) -> bool:
        return bool(self._jump_to_ops)

    def check_jumping(self, input_data: dict[int, ChannelData]) -> bool:
        """Whether to jump. `input_data` has what `postprocess` answered, by the request's `data_id`.

        It is asked for each request by itself; there, a batch jumps as a whole.
        """
        return False

    def init_op(self) -> None:
        """Load what the hooks need: once in each worker, after the model."""

    def set_dynamic_shape_info(self) -> None:
        """Set `self.dynamic_shape_info` for TensorRT: `min_input_shape`, `max_input_shape` and `opt_input_shape`, each
        by the names of inputs."""

    def preprocess(
        self, input_dicts: dict[str, dict[str, Any]], data_id: int = 0, log_id: int = 0
    ) -> tuple[Any, bool, Any, str]:
        """(what the model is given, whether to leave out its run, the number of an error or None, its text).

        `input_dicts` has what each of the input Ops gave, by the Op's name. The model takes a dict of arrays by their
        names, with the batch as first axis, or a list of such dicts, which are run one by one.
        """
        ((_, given),) = input_dicts.items()
        return given, False, None, ""

    def process(self, feed_batch: list[dict[str, Any]], typical_logid: int = 0) -> tuple[Any, int, str]:
        """(the model's outputs by name, the number of an error or 0, its text), for the one dict in `feed_batch`."""
        if self.client is None:
            return None, CustomExceptionCode.NOT_IMPLEMENTED.value, "the Op has no model"
        fetched = self.client.predict(feed_batch[0], self._fetch_names or None, batch=True, log_id=typical_logid)
        return fetched, 0, ""

    def postprocess(
        self, input_data: dict[str, dict[str, Any]], fetch_data: Any, data_id: int = 0, log_id: int = 0
    ) -> tuple[dict[str, Any], Any, str]:
        """(what the next Ops are given, the number of an error or None, its text).

        `fetch_data` is the model's outputs, or a list of them; what `preprocess` returned where the model was not run.
        """
        return fetch_data if isinstance(fetch_data, dict) else {}, None, ""


@dataclass
class PipelineRequest:
    """A request as Pipeline's protocol has it, with its tensors as arrays."""

    key: list[str] = field(default_factory=list)
    value: list[Any] = field(default_factory=list)
    arrays: dict[str, Any] = field(default_factory=dict)
    logid: int = 0


@dataclass
class PipelineResponse:
    """An answer as Pipeline's protocol has it."""

    err_no: int = 0
    err_msg: str = ""
    key: list[str] = field(default_factory=list)
    value: list[str] = field(default_factory=list)


@dataclass
class ChannelData:
    """What came of a request: `parse()` gives what the last Op answered, if `error_code` is 0."""

    id: int
    log_id: int
    error_code: int = 0
    error_info: str = ""
    data: dict[str, Any] = field(default_factory=dict)

    def parse(self) -> dict[str, Any]:
        return self.data


class RequestOp(Op):
    """Takes requests apart."""

    def __init__(self) -> None:
        super().__init__(READER)

    def unpack_request_package(self, request: PipelineRequest) -> tuple[dict[str, Any], int | None, Any, str]:
        """(texts and arrays by name, the client's id of the request, the number of an error or None, its text)."""
        return {**dict(zip(request.key, request.value, strict=True)), **request.arrays}, request.logid, None, ""


class ResponseOp(Op):
    """Packs answers."""

    def __init__(self, input_ops: Sequence[Op] | Op) -> None:
        super().__init__(READER, input_ops)

    def pack_response_package(self, channeldata: ChannelData) -> PipelineResponse:
        """Texts as they are, arrays as Python writes them; clients read that back."""
        response = PipelineResponse(channeldata.error_code, channeldata.error_info)
        if not response.err_no:
            for name, value in channeldata.parse().items():
                response.key.append(str(name))
                response.value.append(_text(name, value))
        return response


def arguments(op: Op) -> dict[str, Any]:
    """What the Op's constructor was given of what config.yml may say, by config.yml's keys."""
    return op._arguments


def _as_ops(name: str, argument: str, given: Sequence[Op] | Op | None) -> list[Op]:
    ops = [] if given is None else [given] if isinstance(given, Op) else list(given)
    for op in ops:
        if not isinstance(op, Op):
            raise ConfigError(f"Op {name}: {argument}: expected Ops, found {type(op).__name__}")
    return ops


def _text(name: object, value: object) -> str:
    """Raises OpFailed for what is neither text nor an array."""
    if isinstance(value, str):
        return value
    if isinstance(value, np.ndarray):
        with np.printoptions(threshold=sys.maxsize):
            return repr(value)
    raise OpFailed(
        CustomExceptionCode.TYPE_ERROR,
        f'"{name}" is {type(value).__name__}: the last Op answers with texts or arrays: return str(…) of it',
    )
