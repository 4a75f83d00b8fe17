"""TorchServe's management API for a cluster: one server's verbs, over all of its nodes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, get_args

import msgspec

from pdserver.cluster.base import ClusterView, ModelView, NodeLost, Spread, Wanted
from pdserver.cluster.controller import Controller
from pdserver.cluster.describe import describe
from pdserver.cluster.node_http import NodeHttp
from pdserver.configuration.layers import parse_parameters
from pdserver.errors import InvalidRequest, LoadFailed, ModelNotFound, VersionNotFound
from pdserver.formats.values import as_number, nearest, shown
from pdserver.management.verbs import (
    CHANGE,
    DESCRIBE,
    PLACING,
    REGISTER,
    SCALE,
    Done,
    QueryParameters,
    archive_of,
    check_known,
    page,
    sha256_of,
    truth,
    whole,
)

_DESCRIBE_SECONDS = 5.0
_MOST_COPIES = 100_000
_SETTINGS = ("batch_size", "max_batch_delay", "response_timeout", "startup_timeout")


class ClusterVerbs:
    """The verbs, which call the controller; descriptions also ask the nodes. Each raises the controller's errors."""

    def __init__(self, controller: Controller, nodes: NodeHttp) -> None:
        self._controller = controller
        self._nodes = nodes

    async def register(self, given: QueryParameters, *, synchronous: bool) -> Done:
        check_known(given, REGISTER | PLACING | {"replace"})
        url = archive_of(given)
        synchronous = truth(given, "synchronous", synchronous)
        try:
            wanted = await self._controller.register(
                url,
                name=given.get("model_name") or None,
                handler=given.get("handler") or None,
                sha256=sha256_of(given),
                settings=_settings(given),
                workers=whole(given, "initial_workers", None, most=1024),
                copies=_copies(given) or 1,
                spread=_spread(given) or "spread",
                synchronous=synchronous,
                replace=truth(given, "replace", False),
            )
        except LoadFailed as error:
            name = given.get("model_name") or url
            raise LoadFailed(f"Failed to start workers for model {name}: {error}", error.kind) from None
        ref = wanted.ref
        workers = "" if wanted.workers is None else f" with {wanted.workers} initial workers"
        return _done(
            f'Model "{ref.name}" Version: {ref.version} registered{workers} {_on(wanted.copies)}', soon=not synchronous
        )

    async def scale(self, name: str, version: str | None, given: QueryParameters) -> Done:
        check_known(given, SCALE | PLACING)
        version = version or given.get("model_version") or None
        synchronous = truth(given, "synchronous", False)
        copies, spread, settings = _copies(given), _spread(given), _settings(given)
        workers = _workers(given)
        if workers is None and copies is None and spread is None and not settings:
            workers = 1
        wanted = await self._controller.scale(
            name, version, workers=workers, copies=copies, spread=spread, settings=settings, synchronous=synchronous
        )
        which = f", version: {version}" if version else ""
        if workers is None and copies is None and spread is None:
            changed = ", ".join(sorted(CHANGE & given.keys()))
            return _done(f"Changed {changed} of model: {name}{which}", soon=not synchronous)
        if workers is None:
            return _done(f"Copies scaled to {wanted.copies} for model: {name}{which}", soon=not synchronous)
        words = f"Workers scaled to {workers} for model: {name}{which} {_on(wanted.copies)}"
        return _done(words, soon=not synchronous)

    async def set_default(self, name: str, version: str) -> Done:
        await self._controller.set_default(name, version)
        return _done(f'Default version successfully updated for model "{name}" to "{version}"')

    async def unregister(self, name: str, version: str | None) -> Done:
        await self._controller.unregister(name, version)
        return _done(f'Model "{name}" unregistered')

    def page(self, given: QueryParameters) -> dict[str, Any]:
        defaults = sorted((each.wanted for each in self._controller.view().models if each.wanted.default), key=_name)
        return page(given, "models", [{"modelName": each.ref.name, "modelUrl": each.url} for each in defaults])

    async def describe(self, name: str, version: str | None, given: QueryParameters) -> list[dict[str, Any]]:
        check_known(given, DESCRIBE)
        customized = truth(given, "customized", False)
        view = self._controller.view()
        models = _versions(view, name) if version == "all" else [_found(view, name, version)]
        return list(await asyncio.gather(*(self._described(view, model, customized=customized) for model in models)))

    async def _described(self, view: ClusterView, model: ModelView, *, customized: bool) -> dict[str, Any]:
        nodes = {each.node: each for each in view.nodes}
        query = {"customized": "true"} if customized else {}
        path = f"models/{model.wanted.ref.name}/{model.wanted.ref.version}"
        urls = {
            copy.node: f"{status.addresses.management}/{path}"
            for copy in model.copies
            if (node := nodes.get(copy.node)) and not node.lost and (status := node.status)
        }
        answers = await asyncio.gather(*(self._told(url, query) for url in urls.values()))
        told = {node: answer for node, answer in zip(urls, answers, strict=True) if answer is not None}
        return describe(model, nodes, told)

    async def _told(self, url: str, query: Mapping[str, str]) -> dict[str, Any] | None:
        """What a node says of a version; None: it does not answer, or does not have it yet."""
        with contextlib.suppress(NodeLost, msgspec.DecodeError):
            answer = await self._nodes.get(url, seconds=_DESCRIBE_SECONDS, query=query)
            return msgspec.json.decode(answer, type=list[dict[str, Any]])[0]
        return None

    def is_ready(self, name: str) -> dict[str, Any]:
        model = _found(self._controller.view(), name, None)
        return {"name": name, "ready": any(copy.ready for copy in model.copies)}


def _done(change: str, *, soon: bool = False) -> Done:
    return Done(202 if soon else 200, "Processing worker updates..." if soon else change, change)


def _on(copies: int) -> str:
    return "on 1 node" if copies == 1 else f"on each of {copies} nodes"


def _name(wanted: Wanted) -> str:
    return wanted.ref.name


def _settings(given: QueryParameters) -> dict[str, str]:
    """Those among the parameters, as text. Raises InvalidRequest for one that no server would take."""
    found = {name: given[name] for name in _SETTINGS if given.get(name)}
    parse_parameters(found, "request")
    return found


def _copies(given: QueryParameters) -> int | None:
    if not given.get("copies"):
        return None
    copies = as_number(given["copies"])
    if not isinstance(copies, int) or not 1 <= copies <= _MOST_COPIES:
        raise InvalidRequest(
            f"copies={shown(given['copies'])}: expected a whole number from 1 to {_MOST_COPIES}; to have none,"
            " unregister the model"
        )
    return copies


def _spread(given: QueryParameters) -> Spread | None:
    text = given.get("spread", "")
    if text and text not in get_args(Spread):
        raise InvalidRequest(f"spread={shown(text)}: expected {' or '.join(get_args(Spread))}")
    return "packed" if text == "packed" else "spread" if text else None


def _workers(given: QueryParameters) -> int | None:
    """Of each copy. A copy has as many as it is told: what `max_worker` allows beyond is nobody's to add."""
    least, most = whole(given, "min_worker", None, most=1024), whole(given, "max_worker", None, most=1024)
    if most is not None and most != (1 if least is None else least):
        raise InvalidRequest(
            f"max_worker={most}: a copy has just as many workers as min_worker says; for more, raise that, or copies"
        )
    return most if least is None else least


def _versions(view: ClusterView, name: str) -> list[ModelView]:
    """Raises ModelNotFound."""
    found = [model for model in view.models if model.wanted.ref.name == name]
    if not found:
        names = {model.wanted.ref.name for model in view.models}
        raise ModelNotFound(f"Model not found: {shown(name)}{nearest(name, names)}")
    return found


def _found(view: ClusterView, name: str, version: str | None) -> ModelView:
    """The default version if none is named. Raises ModelNotFound, VersionNotFound."""
    for model in _versions(view, name):
        if model.wanted.default if version is None else model.wanted.ref.version == version:
            return model
    raise VersionNotFound(f"Model version: {shown(version or '')} does not exist for model: {name}")
