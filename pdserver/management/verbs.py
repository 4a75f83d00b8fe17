"""TorchServe's management API, independent of the protocol: parameters in, text or JSON out.

QueryParameters are text by name ("min_worker": "2"), as in a query.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import orjson

from pdserver.configuration.layers import parse_parameters
from pdserver.engine.catalogue import ServedVersion
from pdserver.engine.engine import Engine
from pdserver.errors import HandlerFailed, InvalidRequest, LoadFailed
from pdserver.formats.values import SHA256, as_number, nearest, shown
from pdserver.management.describe import describe
from pdserver.types import Failure, ModelRef, Request

_PAGE = 100
REGISTER = frozenset({
    "url", "model_name", "runtime", "handler", "batch_size", "max_batch_delay", "initial_workers", "synchronous",
    "response_timeout", "startup_timeout", "s3_sse_kms", "sha256",
})  # fmt: skip
CHANGE = frozenset({"batch_size", "max_batch_delay", "response_timeout"})
SCALE = CHANGE | {"min_worker", "max_worker", "model_version", "synchronous", "number_gpu", "timeout"}
DESCRIBE = frozenset({"customized"})
_LIST = frozenset({"limit", "next_page_token"})
PLACING = frozenset({"copies", "spread"})
"""What registering and scaling take besides in a cluster, which can also `replace` a version."""
_CLUSTER = PLACING | {"replace"}

QueryParameters = Mapping[str, str]


class Done(msgspec.Struct, frozen=True):
    """The outcome of a verb: a message, and the HTTP status 200, or 202 if the work goes on in the background."""

    status: int
    words: str
    change: str
    """The change, for the log."""


class ManagementVerbs(Protocol):
    """The verbs. Each raises PdError, which is InvalidRequest for its parameters."""

    async def register(self, given: QueryParameters, *, synchronous: bool) -> Done:
        """Register a model. `synchronous` is the default of the parameter of that name."""

    async def scale(self, name: str, version: str | None, given: QueryParameters) -> Done: ...

    async def set_default(self, name: str, version: str) -> Done: ...

    async def unregister(self, name: str, version: str | None) -> Done: ...

    def page(self, given: QueryParameters) -> dict[str, Any]:
        """A page of the registered models, as JSON."""

    async def describe(self, name: str, version: str | None, given: QueryParameters) -> list[dict[str, Any]]:
        """A version, the default version, or all of them (version "all"), as JSON.

        `customized=true` also asks their handlers. Raises Unavailable if there is no worker to ask.
        """

    def is_ready(self, name: str) -> dict[str, Any]:
        """KServe's readiness of a model, as JSON."""


class Verbs:
    """The verbs of one server, which call its engine. Each raises the engine's errors."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def register(self, given: QueryParameters, *, synchronous: bool) -> Done:
        check_known(given, REGISTER, of_clusters=_CLUSTER)
        url = archive_of(given)
        sha256 = sha256_of(given)
        workers = whole(given, "initial_workers", None, most=1024)
        synchronous = truth(given, "synchronous", synchronous)
        try:
            spec = await self._engine.register(
                url,
                name=given.get("model_name") or None,
                handler=given.get("handler") or None,
                sha256=sha256,
                settings=parse_parameters(given, "request"),
                workers=workers,
                synchronous=synchronous,
            )
        except LoadFailed as error:
            name = given.get("model_name") or url
            raise LoadFailed(f"Failed to start workers for model {name}: {error}", error.kind) from None
        words = f'Model "{spec.name}" Version: {spec.version} registered with {spec.min_workers} initial workers'
        if spec.min_workers == 0:
            return await self._done(f"{words}. Use scale workers API to add workers for the model.")
        return await self._done(words, soon=not synchronous)

    async def scale(self, name: str, version: str | None, given: QueryParameters) -> Done:
        check_known(given, SCALE, of_clusters=_CLUSTER)
        version = version or given.get("model_version") or None
        settings = parse_parameters(given, "request")
        synchronous = truth(given, "synchronous", False)
        which = f", version: {version}" if version else ""
        changed = CHANGE & given.keys()
        if changed and not settings.keys() & {"min_workers", "max_workers"}:
            self._engine.change(name, version, settings)
            return await self._done(f"Changed {', '.join(sorted(changed))} of model: {name}{which}")
        min_workers = settings.get("min_workers", 1)
        most = settings.get("max_workers")
        await self._engine.scale(name, version, min_workers, most, settings=settings, synchronous=synchronous)
        return await self._done(f"Workers scaled to {min_workers} for model: {name}{which}", soon=not synchronous)

    async def set_default(self, name: str, version: str) -> Done:
        self._engine.set_default(name, version)
        return await self._done(f'Default version successfully updated for model "{name}" to "{version}"')

    async def unregister(self, name: str, version: str | None) -> Done:
        await self._engine.unregister(name, version)
        return await self._done(f'Model "{name}" unregistered')

    async def _done(self, change: str, *, soon: bool = False) -> Done:
        """The outcome of a change once it is on the disk. If it can't be written, the message says so. `soon`: its
        workers are still starting."""
        words = "Processing worker updates..." if soon else change
        if problem := await self._engine.keep():
            words = f"{words.rstrip('.')}. This is not on disk, and a server that is killed forgets it: {problem}"
        return Done(202 if soon else 200, words, change)

    def page(self, given: QueryParameters) -> dict[str, Any]:
        models = [{"modelName": model.name, "modelUrl": model.default.spec.url} for model in self._engine.catalogue]
        return page(given, "models", models)

    async def describe(self, name: str, version: str | None, given: QueryParameters) -> list[dict[str, Any]]:
        check_known(given, DESCRIBE)
        customized = truth(given, "customized", False)
        catalogue = self._engine.catalogue
        versions = catalogue.model(name).versions.values() if version == "all" else [catalogue.resolve(name, version)]
        return [await self._described(served, customized=customized) for served in versions]

    async def _described(self, served: ServedVersion, *, customized: bool) -> dict[str, Any]:
        described = describe(served, self._engine.details(served.spec.ref))
        return described | ({"customizedMetadata": await self._ask_handler(served.spec.ref)} if customized else {})

    async def _ask_handler(self, ref: ModelRef) -> Any:
        outcome = await self._engine.ask(Request(ref.name, ref.version, "describe", [], verb="describe"))
        if isinstance(outcome, Failure):
            words = f"model {ref} failed to describe itself: {outcome.message}"
            raise HandlerFailed(words, outcome.kind, outcome.status)
        try:
            return orjson.loads(outcome.body)
        except orjson.JSONDecodeError:
            return outcome.body.decode("utf-8", "replace")

    def is_ready(self, name: str) -> dict[str, Any]:
        return {"name": name, "ready": self._engine.catalogue.resolve(name, None).is_ready}


def page(given: QueryParameters, key: str, listed: Sequence[Any]) -> dict[str, Any]:
    """A page of a list, under this key, as the parameters say. Raises InvalidRequest."""
    check_known(given, _LIST)
    limit = whole(given, "limit", _PAGE)
    start = max(0, whole(given, "next_page_token", 0) or 0)
    if limit is None or not 0 < limit <= _PAGE:
        limit = _PAGE
    found = {key: listed[start:][:limit]}
    return {"nextPageToken": str(start + limit), **found} if start + limit < len(listed) else found


def archive_of(given: QueryParameters) -> str:
    """The URL of the archive that is to be registered. Raises InvalidRequest, too, for what archives can't be."""
    url = given.get("url")
    if not url:
        raise InvalidRequest("Parameter url is required: the file name of an archive in the model store.")
    if given.get("runtime", "python") not in ("python", "python3"):
        raise InvalidRequest(f"runtime={shown(given['runtime'])}: expected python or python3")
    refuse_s3(given)
    return url


def sha256_of(given: QueryParameters) -> str | None:
    """What an archive's bytes must have. Raises InvalidRequest."""
    sha256 = (given.get("sha256") or "").lower()
    if sha256 and not SHA256.fullmatch(sha256):
        raise InvalidRequest(f"sha256={shown(given['sha256'])}: expected 64 hexadecimal digits")
    return sha256 or None


def refuse_s3(given: QueryParameters) -> None:
    """Raises InvalidRequest."""
    if truth(given, "s3_sse_kms", False):
        raise InvalidRequest("s3_sse_kms=true: archives that S3 encrypts with its own keys are not supported")


def check_known(given: QueryParameters, known: Iterable[str], *, of_clusters: Iterable[str] = ()) -> None:
    """`of_clusters` are known there alone. Raises InvalidRequest."""
    for name in given:
        if name in of_clusters:
            raise InvalidRequest(f"{name}: this is one server; a cluster's management takes it (`pdserver cluster`)")
        if name not in known:
            raise InvalidRequest(f"unknown parameter {shown(name)}{nearest(name, known)}")


def whole(given: QueryParameters, name: str, default: int | None, most: int = 1_000_000) -> int | None:
    """A whole number in the parameters. -1 stands for the default, as with TorchServe."""
    if not given.get(name):
        return default
    value = as_number(given[name])
    if not isinstance(value, int) or not -1 <= value <= most:
        raise InvalidRequest(f"{name}={shown(given[name])}: expected a whole number from 0 to {most}")
    return value if value >= 0 else default


def truth(given: QueryParameters, name: str, default: bool) -> bool:
    text = given.get(name, str(default)).lower()
    if text not in ("true", "false"):
        raise InvalidRequest(f"{name}={shown(given[name])}: expected true or false")
    return text == "true"
