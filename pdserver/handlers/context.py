"""What a handler knows besides the data: its model, the requests' headers, and the answers' status and headers.

The names are those of TorchServe's `ts.context.Context`, so that handlers written for it work unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from pdserver import __version__
from pdserver.configuration.model import ModelSpec
from pdserver.handlers.runtime.metrics import Metrics
from pdserver.types import Parameter, Request


class Head(msgspec.Struct):
    """The status and headers that a handler set for one answer. They are checked when the reply is built."""

    status: int = 200
    reason: str = ""
    content_type: str = ""
    headers: dict[str, str] = {}


class RequestProcessor:
    """TorchServe's older way to one request of the batch: what `Context` says and sets for its `idx`."""

    def __init__(self, context: Context, idx: int) -> None:
        self._context = context
        self._idx = idx

    def get_request_property(self, key: str) -> str | None:
        return self._context.get_request_header(self._idx, key)

    def get_request_properties(self) -> dict[str, str]:
        return self._context.get_all_request_header(self._idx)

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        self._context.set_response_status(code, reason_phrase or "", self._idx)

    def get_response_status_code(self) -> int:
        return self._context.get_response_status(self._idx)[0]

    def get_response_status_phrase(self) -> str | None:
        return self._context.get_response_status(self._idx)[1] or None

    def add_response_property(self, key: str, value: str) -> None:
        self._context.set_response_header(self._idx, key, value)

    def get_response_headers(self) -> dict[str, str]:
        return self._context.get_response_headers(self._idx)

    def get_response_header(self, key: str) -> str | None:
        return self.get_response_headers().get(key)


class Context:
    """One for the life of a worker; what concerns requests is that of the current batch.

    An `idx` is a position in the list of rows that the handler was given.
    """

    stopping_criteria: Sequence[Callable[[Any], bool]] | None = None
    """For continuous batching: the handler sets it for each batch, instead of the header ts_stream_next. The functions
    say of each request's answer whether it is the last one."""

    def __init__(self, spec: ModelSpec, device_id: int | None) -> None:
        headers = spec.sequence_headers
        self.header_key_sequence_id, self.header_key_sequence_start = headers.id, headers.start
        self.header_key_sequence_end = headers.end
        """The headers of stateful models, as their handlers name them."""
        self.model_name = spec.name
        self.model_version = spec.version
        self.manifest: dict[str, Any] = spec.manifest
        self.model_yaml_config: dict[str, Any] = spec.model_config
        self.model_key = spec.key
        """Of an encrypted model."""
        self.trials = spec.trials
        """The folder that remembers which engine runs which model best; empty: none does."""
        self.opened_model: Any = None
        """What `runtime.model` has opened and not loaded yet, of several models in one process."""
        self.allowed_batch_sizes = spec.allowed_batch_sizes
        """Numbers of rows that a run of the model may have; empty: any."""
        self.system_properties: dict[str, Any] = {
            "model_dir": spec.directory,
            "gpu_id": device_id,
            "batch_size": spec.batch_size,
            "server_name": "pdserver",
            "server_version": __version__,
            "limit_max_image_pixels": spec.limit_max_image_pixels,
        }
        self.metrics = Metrics(spec.name, self.get_request_id)
        self.heads: dict[int, Head] = {}
        """By answer, only where the handler set something."""
        self._requests: Sequence[Request] = ()
        self._send_piece: Callable[[int, Any], None] | None = None

    def begin(self, requests: Sequence[Request], send_piece: Callable[[int, Any], None] | None = None) -> None:
        """Start a batch of these requests. The server calls it before the handler runs."""
        self._requests = requests
        self._send_piece = send_piece
        self.heads = {}
        self.stopping_criteria = None

    def apply_stopping_criteria(self, answers: Sequence[Any]) -> None:
        """Say of each answer whether there is more to come, if the handler left that to `stopping_criteria`."""
        if self.stopping_criteria:
            for idx, (is_last, answer) in enumerate(zip(self.stopping_criteria, answers, strict=True)):
                self.set_response_header(idx, "ts_stream_next", "false" if is_last(answer) else "true")

    def send_intermediate(self, pieces: Sequence[Any]) -> None:
        """Send each request of the batch the next piece of its answer, now; what `handle` returns is the last one.

        `pieces` has one value a request, None for a request that has none this time. The first piece fixes the status,
        the headers and the content type. Raises ValueError for another number of pieces, RuntimeError outside a batch.
        """
        if len(pieces) != len(self._requests):
            raise ValueError(f"{len(pieces)} pieces for a batch of {len(self._requests)}")
        if self._send_piece is None:
            raise RuntimeError("there is no request to send a piece to")
        for idx, piece in enumerate(pieces):
            if piece is not None:
                self._send_piece(idx, piece)

    @contextmanager
    def opened(self, owners: Sequence[int]) -> Iterator[None]:
        """Let `idx` count the instances in the requests' envelopes: `owners` has the position of each one's request.

        Of what is set for the instances of one request, the first one's counts in the end.
        """
        requests, send_piece, heads = self._requests, self._send_piece, self.heads
        self.heads = {}
        self._requests = [requests[owner] for owner in owners]
        if send_piece is not None:
            self._send_piece = lambda idx, piece: send_piece(owners[idx], piece)
        try:
            yield
        finally:
            self._requests, self._send_piece = requests, send_piece
            self.heads = heads | {owners[idx]: head for idx, head in sorted(self.heads.items(), reverse=True)}

    @property
    def verb(self) -> str:
        """What the batch asks for: "predict", "explain" or "describe"."""
        return self._requests[0].verb if self._requests else "predict"

    @property
    def request_processor(self) -> list[RequestProcessor]:
        """The id of each request of the batch."""
        return [RequestProcessor(self, idx) for idx in range(len(self._requests))]

    @property
    def request_ids(self) -> dict[int, str]:
        return {idx: request.id for idx, request in enumerate(self._requests)}

    def get_request_id(self, idx: int = 0) -> str:
        return self._requests[idx].id

    def get_request_parameters(self, idx: int = 0) -> dict[str, Parameter]:
        """The parameters of a typed request."""
        return dict(self._requests[idx].parameters)

    def get_request_header(self, idx: int, key: str) -> str | None:
        """The header `key`, in any case, or None. `url_path` is what followed the model's name in the URL;
        `explain` or `describe` is "True" for requests of that kind."""
        return self.get_all_request_header(idx).get(key.lower())

    def get_all_request_header(self, idx: int) -> dict[str, str]:
        """By name in lower case; headers that came several times are joined with commas."""
        request = self._requests[idx]
        found: dict[str, str] = {}
        for raw_name, raw_value in request.headers:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            found[name] = f"{found[name]}, {value}" if name in found else value
        found["url_path"] = request.path
        if request.verb != "predict":
            found[request.verb] = "True"
        return found

    def get_sequence_id(self, idx: int) -> str:
        """The sequence that a request of a stateful model belongs to, or ""."""
        return self.get_request_header(idx, self.header_key_sequence_id) or ""

    def set_response_content_type(self, idx: int, value: str) -> None:
        self._head(idx).content_type = value

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        if key.lower() == "content-type":
            self.set_response_content_type(idx, value)
        else:
            self._head(idx).headers[key] = value

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        head = self._head(idx)
        head.status, head.reason = code, phrase

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        for idx in range(len(self._requests)):
            self.set_response_status(code, phrase, idx)

    def get_response_content_type(self, idx: int) -> str | None:
        """The content type that was set, or None."""
        return self.heads.get(idx, Head()).content_type or None

    def get_response_headers(self, idx: int) -> dict[str, str]:
        return dict(self.heads.get(idx, Head()).headers)

    def get_response_status(self, idx: int) -> tuple[int, str]:
        head = self.heads.get(idx, Head())
        return head.status, head.reason

    def _head(self, idx: int) -> Head:
        if not 0 <= idx < len(self._requests):
            raise IndexError(f"there is no request {idx} in a batch of {len(self._requests)}")
        return self.heads.setdefault(idx, Head())
