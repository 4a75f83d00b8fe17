"""The boundary between the server and a handler. Whatever the handler raises ends here."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import msgspec

from pdarchiver.errors import ArchiveError
from pdserver.configuration.model import ModelSpec
from pdserver.errors import ArchiveUnusable, ConfigError, HandlerFailed, InvalidRequest, Kind, LoadFailed, PdError
from pdserver.handlers.base import BaseHandler
from pdserver.handlers.context import Context
from pdserver.handlers.runtime import envelopes, lane, loader, warm_up
from pdserver.handlers.runtime.answers import counted, described, outcome
from pdserver.handlers.runtime.isolation import Isolation, SendPiece
from pdserver.handlers.runtime.nodes import NodeHandler
from pdserver.handlers.runtime.parts import decode, decode_arrays, undecoded
from pdserver.handlers.runtime.typed import Times, Typed, of_some
from pdserver.logs import marked as marked_lines
from pdserver.types import Declared, Failure, Interface, Measured, Outcome, Part, Request, RunningEngine, Tensor

_TORCHSERVE_NAMES = str(Path(__file__).parents[2] / "ts_compat")
"""Where handlers that were written for TorchServe find `ts`."""


class Service:
    """One loaded copy of one version of a model. `device_id` is a GPU's number, None for the CPU; `metrics` are what
    metrics.yaml declares for handlers."""

    def __init__(self, spec: ModelSpec, device_id: int | None, metrics: Sequence[Declared] = ()) -> None:
        self._spec = spec
        self._context = Context(spec, device_id)
        self._context.metrics.declare(metrics)
        self._isolation = Isolation(spec, self._context)
        self._entry: loader.EntryPoint | None = None
        self._typed: Typed | None = None
        self._node: NodeHandler | None = None
        self._lane: lane.Lane | None = None
        self._takes_arrays = False
        """Whether the handler reads arrays and .npy files alike."""
        self._reads_itself = False
        self.times = Times()
        """Of the last batch."""
        self.engines: tuple[RunningEngine, ...] = ()
        """What runs its models, as it was told last."""
        self._may_give_way = False
        """Whether that may change yet."""

    def load(self) -> Interface:
        """Import the handler and let it initialise. Gives what typed requests can say to it.

        Raises LoadFailed with the type and message of whatever it raised; the traceback goes to the log. Its kind is
        that of a mistake in the archive, where it is one.
        """
        cv2.setNumThreads(1)  # more threads would compete with the other workers for the cores
        # At the end, so that an archive's files hide neither the standard library nor installed packages. The files
        # of a model without code are never imported, whatever they are called.
        folders = [self._spec.directory] * self._has_code() + [_TORCHSERVE_NAMES]
        sys.path += [folder for folder in folders if folder not in sys.path]
        try:
            entry = loader.load(self._spec.handler, Path(self._spec.directory))
            if not (self._spec.is_step and entry.instance is None):  # a function has nothing to initialise
                entry.initialize(self._context)
            self._typed = Typed(entry, self._context, self._spec, self._isolation)
            read = decode if self._spec.decode_input_request else undecoded
            self._node = NodeHandler(entry, self._context, self._isolation, read)
            self._takes_arrays = isinstance(entry.instance, BaseHandler) and entry.instance.takes_arrays()
            self._reads_itself = not (isinstance(entry.instance, BaseHandler) and entry.instance.reads_as_built_in())
            self._lane = lane.of(entry.instance, self._spec)
            self._warm_up(self._typed)
        except (ArchiveUnusable, ConfigError) as error:
            raise LoadFailed(str(error), error.kind) from error
        except PdError as error:
            raise LoadFailed(str(error)) from error
        except BaseException as error:
            if isinstance(error, ModuleNotFoundError) and error.name == "paddle":
                raise LoadFailed("Paddle is not installed: pip install 'pdserver[cpu]', or 'pdserver[gpu]'") from error
            marked_lines.write(logging.ERROR, traceback.format_exc())
            kind = Kind.OUT_OF_MEMORY if isinstance(error, MemoryError) else Kind.LOAD_FAILED
            raise LoadFailed(described(error), kind) from error
        self._entry = entry
        self.engines = _engines_of(entry.instance)
        self._may_give_way = bool(self.engines) and entry.instance.predictor.may_give_way
        return msgspec.structs.replace(self._typed.interface, engines=self.engines)

    def open_model(self) -> None:
        """Try the engines of its model, in a process that loads several models: all are tried before the first one is
        loaded. Whatever goes wrong, `load` will tell."""
        with contextlib.suppress(PdError, ArchiveError, OSError, ModuleNotFoundError):
            if not self._spec.is_step:
                from pdserver.handlers.runtime import model  # as in BaseHandler

                model.open_first(self._context)

    def _warm_up(self, typed: Typed) -> None:
        metrics = self._context.metrics
        measured = metrics.take()
        typed.prepare()
        warm_up.run(typed, self._spec)
        metrics.take()  # the measurements of the warm-up
        for value in measured:
            metrics.keep(value)

    def _has_code(self) -> bool:
        model = self._spec.manifest.get("model") or {}
        return self._spec.handler not in loader.BUILT_IN or bool(model.get("modelFile"))

    def run(self, requests: list[Request], send_piece: SendPiece | None = None) -> list[Outcome]:
        """The outcomes of `requests`, one for each, in their order. Never raises for anything a handler does.

        `send_piece` is called with a position in `requests` and the next piece of its answer, when a handler streams.
        """
        self.times = Times()
        self._isolation.begin()
        if _are_alike(requests):
            return self._run_alike(requests, send_piece)
        # A handler learns from its first request whether to predict or to explain, so each of its batches has one verb.
        groups: dict[tuple[str, str, bool], list[int]] = {}
        for position, request in enumerate(requests):
            groups.setdefault((request.verb, self._envelope(request), request.typed), []).append(position)
        outcomes: dict[int, Outcome] = {}
        for positions in groups.values():
            send = of_some(send_piece, positions)
            outcomes.update(zip(positions, self._run_alike([requests[p] for p in positions], send), strict=True))
        return [outcomes[position] for position in range(len(requests))]

    def _run_alike(self, requests: list[Request], send_piece: SendPiece | None) -> list[Outcome]:
        """`run`, for requests of one verb in one envelope, all typed or all opaque."""
        first = requests[0]
        if first.typed:
            assert self._typed is not None, "load() comes first"  # noqa: S101
            return self._typed.run(requests, send_piece, self.times)
        if first.lists is not None:
            assert self._node is not None, "load() comes first"  # noqa: S101
            return self._node.run(requests, self.times)
        if self._lane is not None and first.verb == "predict" and not first.envelope:
            answers = self._lane.answers(requests, self.times)
            if answers is not None:
                return answers
        started = time.perf_counter()
        rows, failures = self._rows(requests)
        self.times.input_seconds += time.perf_counter() - started
        if not failures:
            return self._handle(rows, requests, send_piece)
        positions = [position for position in range(len(requests)) if position not in failures]
        readable = [requests[position] for position in positions]
        send = of_some(send_piece, positions)
        answered = iter(self._handle(rows, readable, send) if rows else [])
        return [failures.get(position) or next(answered) for position in range(len(requests))]

    def take_measured(self) -> list[Measured]:
        """What the handler measured since the last time, through `context.metrics`."""
        return self._context.metrics.take()

    def take_engines(self) -> tuple[RunningEngine, ...]:
        """What runs its models, if that has changed since it was told last; else none."""
        if not self._may_give_way:
            return ()
        assert self._entry is not None, "load() comes first"  # noqa: S101
        told, predictor = self.engines, self._entry.instance.predictor
        self.engines, self._may_give_way = predictor.engines, predictor.may_give_way
        return () if self.engines == told else self.engines

    def _handle(
        self, rows: list[dict[str, Any]], requests: list[Request], send_piece: SendPiece | None
    ) -> list[Outcome]:
        assert self._entry is not None, "load() comes first"  # noqa: S101
        entry = envelopes.wrap(self._entry, self._envelope(requests[0]))
        self._context.begin(requests, partial(self._send, send_piece) if send_piece else None)
        self._isolation.attempt()
        try:
            self.times.executions += 1
            answers = counted(entry.handle(rows, self._context), len(requests))  # the handler may change `rows`
            self._context.apply_stopping_criteria(answers)
        except BaseException as error:  # noqa: BLE001 - a handler may even call sys.exit()
            # The inputs are read again, since the handler may have changed the rows.
            return self._isolation.outcomes(
                error, len(requests), lambda i: self._run_alike([requests[i]], of_some(send_piece, [i]))[0]
            )
        started = time.perf_counter()
        heads = self._context.heads
        outcomes = [
            outcome(answer, heads.get(idx) if heads else None, requests[idx].id) for idx, answer in enumerate(answers)
        ]
        self.times.output_seconds += time.perf_counter() - started
        return outcomes

    def _rows(self, requests: list[Request]) -> tuple[list[dict[str, Any]], dict[int, Failure]]:
        """The rows for the handler, and the failures by position for requests without a row."""
        read = self._decoder(requests[0])
        rows: list[dict[str, Any]] = []
        failures: dict[int, Failure] = {}
        for position, request in enumerate(requests):
            try:
                row = {given.name: read(given) for given in request.inputs}
                if request.parameters and self._spec.handler not in loader.BUILT_IN:
                    row = {name: bytearray(str(value).encode()) for name, value in request.parameters.items()} | row
                rows.append(row)
            except InvalidRequest as error:
                failures[position] = Failure.of(error)
        return rows, failures

    def _decoder(self, request: Request) -> Callable[[Part | Tensor], Any]:
        """The function that reads the inputs of requests like this one."""
        if not self._spec.decode_input_request:
            return undecoded
        # A handler that explains gets the request as it came.
        return (
            decode_arrays
            if self._takes_arrays and request.verb == "predict" and not self._envelope(request)
            else decode
        )

    def _envelope(self, request: Request) -> str:
        """How the request wraps what the handler is given. Where the protocol alone says it, a handler that reads
        requests itself is shown all of it, as by TorchServe."""
        if not self._spec.service_envelope and self._reads_itself:
            return ""
        return request.envelope or self._spec.service_envelope

    def _send(self, send_piece: SendPiece, idx: int, answer: Any) -> None:
        piece = outcome(answer, self._context.heads.get(idx))
        if isinstance(piece, Failure):
            raise HandlerFailed(piece.message)
        self._isolation.sent()
        send_piece(idx, piece)


def _are_alike(requests: list[Request]) -> bool:
    """Whether all have one verb and envelope, and are typed or opaque."""
    if not requests:
        return False
    first = requests[0]
    verb, envelope, typed = first.verb, first.envelope, first.typed
    for request in requests:
        if request.verb != verb or request.envelope != envelope or request.typed is not typed:
            return False
    return True


def _engines_of(handler: object) -> tuple[RunningEngine, ...]:
    """What runs the handler's models, if that is known."""
    engines = getattr(getattr(handler, "predictor", None), "engines", ()) if isinstance(handler, BaseHandler) else ()
    return engines if isinstance(engines, tuple) else ()
