"""The workflows that are registered: each is a pipeline, and the models that it brought."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pdarchiver.workflow.pack import SUFFIX
from pdarchiver.workflow.spec import Workflow, WorkflowNode, node_model
from pdserver.configuration.model import ModelSpec, PartialSettings
from pdserver.configuration.server import Config
from pdserver.engine.changes import carried
from pdserver.engine.engine import Engine
from pdserver.engine.specs import check_model_name
from pdserver.errors import Conflict, InvalidRequest, LoadFailed, ModelNotFound, PdError
from pdserver.formats.values import nearest, shown
from pdserver.store.archives import Store
from pdserver.store.downloads import Downloads
from pdserver.store.model import StoredModel
from pdserver.workflows.archive import OpenWorkflow, opened
from pdserver.workflows.graph import pipeline_of

_log = logging.getLogger("pdserver.workflows")


@dataclass(frozen=True)
class _OfStore:
    """A source for the archive of a node's model, in the model store or downloaded to `path`.

    It is not the engine's own source, so snapshots leave the model out.
    """

    store: Store
    path: Path | None

    def open(self, url: str) -> StoredModel:
        return self.store.open(url, self.path)

    def release(self, model: StoredModel) -> None:
        self.store.release(model)


@dataclass(frozen=True)
class _OfWorkflow:
    """A source for what is in the workflow's own archive, which stays open as long as the workflow is registered."""

    model: StoredModel

    def open(self, url: str) -> StoredModel:
        return self.model

    def release(self, model: StoredModel) -> None:
        pass


@dataclass
class Registered:
    """A workflow that is registered, or being so."""

    name: str
    archive: OpenWorkflow
    brought: list[ModelSpec] = field(default_factory=list)
    """What was registered for it: the models that its nodes are, and last the pipeline."""

    @property
    def url(self) -> str:
        return self.archive.stored.url

    @property
    def workflow(self) -> Workflow:
        return self.archive.workflow


class Workflows:
    """Owned by the event loop. All that it registers goes through the engine's verbs."""

    def __init__(self, config: Config, engine: Engine, models: Store, downloads: Downloads, folder: Path) -> None:
        """`models` is the model store. Archives of workflows are unpacked in `folder`, which is the server's own."""
        self.changes = engine.changes
        self._engine = engine
        self._models = models
        self._downloads = downloads
        self._archives = Store(
            config.workflow_store or config.model_store,
            folder,
            config.archive_limits,
            allow_unsafe=config.allow_unsafe_models,
            title="workflow store",
            suffixes=(SUFFIX,),
        )
        self._registered: dict[str, Registered] = {}
        self._taken: set[str] = set()
        """The names of those that are registered, are being registered, or are being removed."""

    def __iter__(self) -> Iterator[Registered]:
        """By their names."""
        return iter(sorted(self._registered.values(), key=lambda each: each.name))

    def get(self, name: str) -> Registered:
        """Raises ModelNotFound."""
        found = self._registered.get(name)
        if found is None:
            raise ModelNotFound(f"Workflow not found: {shown(name)}{nearest(name, self._registered)}")
        return found

    @carried
    async def register(
        self, url: str, *, name: str | None = None, sha256: str | None = None, settings: PartialSettings
    ) -> Registered:
        """Register an archive's workflow, under its own name unless there is another one, and return when all of its
        nodes serve. `settings` are those of all nodes.

        When that fails, nothing is left. Raises what `Engine.register` raises, ArchiveUnusable for what is wrong with
        the archive, Conflict when the name is taken, and LoadFailed with what went wrong with each node.
        """
        self.changes.check()
        if url.lower().endswith((".yaml", ".yml")):
            raise InvalidRequest(
                f"{shown(url)}: a specification; pack it into an archive: pd-workflow-archiver --workflow-name NAME"
                " --spec-file FILE [--handler FILE]"
            )
        async with self._downloads.fetched(url) as path:
            stored = await asyncio.to_thread(self._archives.open, url, path, sha256)
        try:
            archive = await asyncio.to_thread(opened, stored)
            registered = Registered(self._claim(name or archive.name, archive), archive)
        except BaseException:
            await asyncio.to_thread(self._archives.release, stored)
            raise
        try:
            await self._bring(registered, settings)
        except BaseException:
            await self._take_back(registered)
            raise
        self._registered[registered.name] = registered
        _log.info("registered workflow %s from %s (sha256 %s)", registered.name, registered.url, stored.digest)
        return registered

    def _claim(self, name: str | None, archive: OpenWorkflow) -> str:
        """The workflow's name, which is taken from now on."""
        if name is None:
            raise InvalidRequest(f"{shown(archive.stored.url)}: its manifest names no workflow: give a workflow_name")
        check_model_name(name)
        if name in self._taken:
            raise Conflict(f"Workflow {name} is already registered.")
        for each in (name, *(_model(name, node) for node in archive.workflow.nodes)):
            if self._engine.catalogue.knows(each):
                raise Conflict(f"Workflow {name}: a model {each} is registered already: give another workflow_name")
        self._taken.add(name)
        return name

    async def _bring(self, registered: Registered, settings: PartialSettings) -> None:
        nodes = registered.workflow.nodes
        results = await asyncio.gather(
            *(self._bring_node(registered, node, settings) for node in nodes), return_exceptions=True
        )
        failed: list[PdError] = []
        told = []
        for node, error in zip(nodes, results, strict=True):
            if isinstance(error, PdError):
                failed.append(error)
                told.append(f"Workflow Node {node.name} failed to register. Details: {error}")
            elif error is not None:
                raise error
        if failed:
            words = f"Workflow {registered.name} has failed to register. Failures: {'; '.join(told)}"
            raise LoadFailed(words, failed[0].kind)
        model = registered.archive.model(pipeline_of(registered.workflow, registered.name))
        await self._bring_model(registered, registered.name, _OfWorkflow(model), settings)

    async def _bring_node(self, registered: Registered, node: WorkflowNode, settings: PartialSettings) -> None:
        own = node.settings
        # As TorchServe does, which starts so many workers and never scales them.
        settings = {
            **settings,
            "min_workers": own.max_workers,
            "batch_size": own.batch_size,
            "max_batch_delay_seconds": own.max_batch_delay / 1000,
        }
        name = _model(registered.name, node)
        if not node.url:
            source = _OfWorkflow(registered.archive.model())
            handler = f"{registered.archive.handler}:{node.name}"
            await self._bring_model(registered, name, source, settings, handler=handler)
            return
        async with self._downloads.fetched(node.url) as path:
            await self._bring_model(registered, name, _OfStore(self._models, path), settings, url=node.url)

    async def _bring_model(
        self,
        registered: Registered,
        name: str,
        source: _OfStore | _OfWorkflow,
        settings: PartialSettings,
        *,
        url: str = "",
        handler: str | None = None,
    ) -> None:
        spec = await self._engine.register(
            url or registered.url, source=source, name=name, handler=handler, settings=settings, synchronous=True
        )
        registered.brought.append(spec)

    @carried
    async def unregister(self, name: str) -> None:
        """Remove a workflow, after what it has was answered, and the models that it brought. Raises ModelNotFound."""
        registered = self.get(name)
        del self._registered[name]
        await self._take_back(registered)
        _log.info("unregistered workflow %s", name)

    async def _take_back(self, registered: Registered) -> None:
        """The pipeline first: requests that it has taken still need its models."""
        nodes = [spec for spec in registered.brought if spec.name != registered.name]
        for spec in registered.brought[len(nodes) :]:
            await self._unregister(spec)
        await asyncio.gather(*map(self._unregister, nodes))
        await asyncio.to_thread(self._archives.release, registered.archive.stored)
        self._taken.discard(registered.name)

    async def _unregister(self, spec: ModelSpec) -> None:
        """What was registered, unless somebody has removed it or has another model under that name meanwhile."""
        catalogue = self._engine.catalogue
        if not catalogue.has(spec.ref) or catalogue.resolve(spec.name, spec.version).spec.directory != spec.directory:
            return
        try:
            await self._engine.unregister(spec.name, spec.version)
        except PdError as error:
            _log.error("%s, which a workflow has brought, is left: %s", spec.ref, error)


def _model(workflow: str, node: WorkflowNode) -> str:
    try:
        return node_model(workflow, node.name)
    except ValueError as error:
        raise InvalidRequest(f"node {node.name}: {error}") from None
