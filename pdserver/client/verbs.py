"""The methods that all clients have, over REST and gRPC, blocking and awaited."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pdserver.client.answers import ModelMetadata, ServerMetadata
from pdserver.client.arrays import Arrays, Inputs
from pdserver.client.calls import Call, Calls, Parameter, Port
from pdserver.client.faces import Attempt, Conversation, verb

T = TypeVar("T")


class Verbs:
    """What to ask, and when to ask again. A subclass sends it, and is also Blocking or Awaited."""

    _calls: Calls
    _example: str
    """The form of a management port's address, for an error."""

    def __init__(self, inference: Port, management: Port, timeout_seconds: float, retries: int = 0) -> None:
        """A client that manages no models has no address in `management`."""
        self._inference = inference
        self._management = management
        self._timeout_seconds = timeout_seconds
        self._retries = retries

    @verb
    def infer(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: str | None = None,
        outputs: Sequence[str] = (),
        parameters: Mapping[str, Parameter] = {},
        request_id: str = "",
        timeout_seconds: float | None = None,
    ) -> Conversation[Arrays]:
        """The model's outputs by their names: those of `outputs`, or all of them if it is empty.

        Arrays that are views of the answer are read-only. BYTES become arrays of bytes objects.
        """
        call = self._calls.infer(model, inputs, version, outputs, parameters, request_id)
        return (yield from self._ask(call, timeout_seconds))

    @verb
    def predict(
        self,
        model: str,
        data: object,
        *,
        version: str | None = None,
        headers: Mapping[str, str] = {},
        timeout_seconds: float | None = None,
    ) -> Conversation[Any]:
        """The handler's answer: parsed if it is JSON, a str if it is text, else bytes.

        Bytes and texts are sent as they are, all else as JSON; `headers` may name another content type. Over gRPC the
        answer is always bytes, because nothing tells its type there.
        """
        return (yield from self._ask(self._calls.predict(model, data, version, headers), timeout_seconds))

    @verb
    def live(self) -> Conversation[bool]:
        """Whether the server runs."""
        return (yield from self._ask(self._calls.live()))

    @verb
    def ready(self, model: str | None = None, version: str | None = None) -> Conversation[bool]:
        """Whether the model can be asked; without a model, whether the server has everything that it should serve."""
        return (yield from self._ask(self._calls.ready(model, version)))

    @verb
    def server_metadata(self) -> Conversation[ServerMetadata]:
        """What the server is."""
        return (yield from self._ask(self._calls.server_metadata()))

    @verb
    def metadata(self, model: str, version: str | None = None) -> Conversation[ModelMetadata]:
        """What the model takes and gives."""
        return (yield from self._ask(self._calls.model_metadata(model, version)))

    @verb
    def register(self, /, url: str, **parameters: Parameter) -> Conversation[str]:
        """Serve an archive of the model store. Returns when it is served, unless `synchronous` is False.

        The parameters are those of the management API.
        """
        return (yield from self._manage(self._calls.register(url, parameters)))

    @verb
    def scale(
        self, /, model: str, min_worker: int, *, version: str | None = None, **parameters: Parameter
    ) -> Conversation[str]:
        """Set the number of workers. Returns when they run, unless `synchronous` is False."""
        given = {"synchronous": True, **parameters, "min_worker": min_worker}
        return (yield from self._manage(self._calls.scale(model, version, given)))

    @verb
    def set_default(self, model: str, version: str) -> Conversation[str]:
        """Choose the version that answers requests which name none."""
        return (yield from self._manage(self._calls.set_default(model, version)))

    @verb
    def unregister(self, model: str, version: str | None = None) -> Conversation[str]:
        """Stop serving the model."""
        return (yield from self._manage(self._calls.unregister(model, version)))

    @verb
    def describe(self, model: str, version: str | None = None) -> Conversation[list[dict[str, Any]]]:
        """The state of the named version, of the default version without one, or of each version for "all"."""
        return (yield from self._manage(self._calls.describe(model, version)))

    @verb
    def models(self) -> Conversation[dict[str, str]]:
        """Name → archive of the registered models."""
        found, page = yield from self._manage(self._calls.models(""))
        while page:
            more, page = yield from self._manage(self._calls.models(page))
            found |= more
        return found

    def _ask(self, call: Call[T], timeout_seconds: float | None = None) -> Conversation[T]:
        """Ask the inference port. A timeout of None is the client's."""
        return self._exchange(
            self._inference, call, self._timeout_seconds if timeout_seconds is None else timeout_seconds
        )

    def _manage(self, call: Call[T]) -> Conversation[T]:
        """Ask the management port. Raises ValueError if the client has no address for it."""
        if not self._management.address:
            raise ValueError(f'to manage models, give the address of the management port: management="{self._example}"')
        return self._exchange(self._management, call, self._timeout_seconds)

    def _exchange(self, port: Port, call: Call[T], timeout_seconds: float) -> Conversation[T]:
        """Send the call, and send it again while the server is busy and says how long to wait."""
        deadline = time.monotonic() + timeout_seconds
        answer = yield Attempt(port, call, timeout_seconds)
        for _ in range(self._retries):
            delay = answer.retry_after_seconds()
            left = deadline - time.monotonic()
            if answer.status != 503 or delay is None or delay >= left:
                break
            answer = yield Attempt(port, call, left - delay, delay)
        return call.parse(answer)
