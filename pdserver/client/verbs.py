"""The methods of all clients, those that block and those for an event loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pdserver.client.answers import ModelMetadata, ServerMetadata
from pdserver.client.arrays import Arrays, Inputs
from pdserver.client.calls import Call, Calls, Parameter

T = TypeVar("T")


class Verbs:
    """A transport says how to send."""

    _calls: Calls

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
    ) -> Arrays:
        """The model's outputs (those of `outputs`; all, if it is empty) for its inputs, by their names.

        Read-only where they are views of the answer. BYTES are arrays of bytes objects.
        """
        call = self._calls.infer(model, inputs, version, outputs, parameters, request_id)
        return self._ask(call, timeout_seconds)

    def predict(
        self,
        model: str,
        data: object,
        *,
        version: str | None = None,
        headers: Mapping[str, str] = {},
        timeout_seconds: float | None = None,
    ) -> Any:
        """The handler's answer: parsed if it is JSON, a str if it is text, else bytes.

        Bytes and texts are sent as they are, all else as JSON; `headers` may name another content type. Over gRPC,
        where nothing says what an answer is, it is bytes.
        """
        return self._ask(self._calls.predict(model, data, version, headers), timeout_seconds)

    def live(self) -> bool:
        """Whether the server runs."""
        return self._ask(self._calls.live())

    def ready(self, model: str | None = None, version: str | None = None) -> bool:
        """Whether the model can be asked; without one, whether everything that should be served is."""
        return self._ask(self._calls.ready(model, version))

    def server_metadata(self) -> ServerMetadata:
        """What the server is."""
        return self._ask(self._calls.server_metadata())

    def metadata(self, model: str, version: str | None = None) -> ModelMetadata:
        """What the model takes and gives."""
        return self._ask(self._calls.model_metadata(model, version))

    def register(self, url: str, **parameters: Parameter) -> str:
        """Serve an archive of the model store; returns when it is, unless `synchronous` is False.

        The parameters are those of the management API.
        """
        return self._manage(self._calls.register(url, parameters))

    def scale(self, model: str, min_worker: int, *, version: str | None = None, **parameters: Parameter) -> str:
        """Have so many workers; returns when there are, unless `synchronous` is False."""
        given = {"synchronous": True, **parameters, "min_worker": min_worker}
        return self._manage(self._calls.scale(model, version, given))

    def set_default(self, model: str, version: str) -> str:
        """Have a version answer those who name none."""
        return self._manage(self._calls.set_default(model, version))

    def unregister(self, model: str, version: str | None = None) -> str:
        """Serve it no more."""
        return self._manage(self._calls.unregister(model, version))

    def describe(self, model: str, version: str | None = None) -> list[dict[str, Any]]:
        """The default version, the one that is named, or, for "all", each of them."""
        return self._manage(self._calls.describe(model, version))

    def models(self) -> dict[str, str]:
        """Name → archive of the registered models."""
        found, page = self._manage(self._calls.models(""))
        while page:
            more, page = self._manage(self._calls.models(page))
            found |= more
        return found

    def _ask(self, call: Call[T], timeout_seconds: float | None = None) -> T:
        """At the inference port. None: the client's own timeout."""
        raise NotImplementedError

    def _manage(self, call: Call[T]) -> T:
        """At the management port."""
        raise NotImplementedError


class AsyncVerbs:
    """The same, awaited: each method does what that of `Verbs` does."""

    _calls: Calls

    async def infer(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: str | None = None,
        outputs: Sequence[str] = (),
        parameters: Mapping[str, Parameter] = {},
        request_id: str = "",
        timeout_seconds: float | None = None,
    ) -> Arrays:
        call = self._calls.infer(model, inputs, version, outputs, parameters, request_id)
        return await self._ask(call, timeout_seconds)

    async def predict(
        self,
        model: str,
        data: object,
        *,
        version: str | None = None,
        headers: Mapping[str, str] = {},
        timeout_seconds: float | None = None,
    ) -> Any:
        return await self._ask(self._calls.predict(model, data, version, headers), timeout_seconds)

    async def live(self) -> bool:
        return await self._ask(self._calls.live())

    async def ready(self, model: str | None = None, version: str | None = None) -> bool:
        return await self._ask(self._calls.ready(model, version))

    async def server_metadata(self) -> ServerMetadata:
        return await self._ask(self._calls.server_metadata())

    async def metadata(self, model: str, version: str | None = None) -> ModelMetadata:
        return await self._ask(self._calls.model_metadata(model, version))

    async def register(self, url: str, **parameters: Parameter) -> str:
        return await self._manage(self._calls.register(url, parameters))

    async def scale(self, model: str, min_worker: int, *, version: str | None = None, **parameters: Parameter) -> str:
        given = {"synchronous": True, **parameters, "min_worker": min_worker}
        return await self._manage(self._calls.scale(model, version, given))

    async def set_default(self, model: str, version: str) -> str:
        return await self._manage(self._calls.set_default(model, version))

    async def unregister(self, model: str, version: str | None = None) -> str:
        return await self._manage(self._calls.unregister(model, version))

    async def describe(self, model: str, version: str | None = None) -> list[dict[str, Any]]:
        return await self._manage(self._calls.describe(model, version))

    async def models(self) -> dict[str, str]:
        found, page = await self._manage(self._calls.models(""))
        while page:
            more, page = await self._manage(self._calls.models(page))
            found |= more
        return found

    async def _ask(self, call: Call[T], timeout_seconds: float | None = None) -> T:
        """At the inference port. None: the client's own timeout."""
        raise NotImplementedError

    async def _manage(self, call: Call[T]) -> T:
        """At the management port."""
        raise NotImplementedError
