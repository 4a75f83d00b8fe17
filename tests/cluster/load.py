"""Clients that ask one after the other on kept connections, and keep account of every answer.

They ask a model of `tests/zoo/times.py`, which multiplies by its factor. Each request has a number of its own, so an
answer tells which model and version gave it, and to which request.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import grpc

ANSWER_SECONDS = 60.0
_BROKEN_WORDS = (
    "Socket closed",
    "recvmsg",
    "Connection reset",
    "Broken pipe",
    "GOAWAY",
    "Stream removed",
    "RST_STREAM",
)
"""By which gRPC's client, unlike a server, says that a connection broke."""


@dataclass
class Account:
    """What became of the requests, each of which is counted once."""

    right: Counter[int] = field(default_factory=Counter)
    """By the factor that the answer tells."""
    wrong: list[str] = field(default_factory=list)
    """Answers to something else."""
    refused: Counter[str] = field(default_factory=Counter)
    """By status and reason."""
    broken: list[str] = field(default_factory=list)
    """Sent on a connection that broke before the answer."""
    unreachable: int = 0
    """Connections that could not be made. The client went on to its next address."""

    @property
    def lost(self) -> int:
        return sum(self.refused.values()) + len(self.broken)

    def __str__(self) -> str:
        return (
            f"right {dict(self.right)}, wrong {self.wrong[:3]} ({len(self.wrong)}), refused {dict(self.refused)}, "
            f"broken {self.broken[:3]} ({len(self.broken)}), unreachable {self.unreachable}"
        )


class Answer(NamedTuple):
    """A right one; moments are of `time.monotonic`."""

    asked: float
    came: float
    factor: int


class Unreachable(Exception):
    """No connection could be made, so nothing was sent."""


class Broken(Exception):
    """The connection broke after the request was sent, or no answer came in time."""


class Refused(Exception):
    """The server answered with an error, which is the text."""


class Line(Protocol):
    """A kept connection to one address."""

    def ask(self, number: int) -> float:
        """The model's answer. Raises Unreachable, Broken, Refused."""

    def close(self) -> None: ...


class Identity(NamedTuple):
    """With TLS: whom a client believes, and what it shows. Paths of PEM files."""

    ca: Path
    certificate: Path
    key: Path


class HttpLine:
    def __init__(self, address: str, model: str, headers: dict[str, str], tls: Identity | None = None) -> None:
        where = urlsplit(address).netloc
        self._connection = http.client.HTTPConnection(where, timeout=ANSWER_SECONDS)
        if tls is not None:
            context = ssl.create_default_context(cafile=tls.ca)
            context.load_cert_chain(tls.certificate, tls.key)
            self._connection = http.client.HTTPSConnection(where, timeout=ANSWER_SECONDS, context=context)
        self._path = f"/v2/models/{model}/infer"
        self._headers = {"Content-Type": "application/json", **headers}

    def ask(self, number: int) -> float:
        tensor = {"name": "x", "datatype": "FP64", "shape": [1, 1], "data": [number]}
        try:
            if self._connection.sock is None:
                self._connection.connect()
        except OSError as error:
            raise Unreachable(str(error)) from None
        try:
            self._connection.request("POST", self._path, json.dumps({"inputs": [tensor]}), self._headers)
            answer = self._connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise Broken(f"{type(error).__name__}: {error}") from None
        if answer.status != 200:
            raise Refused(f"{answer.status} {body.decode(errors='replace')[:200]}")
        return float(json.loads(body)["outputs"][0]["data"][0])

    def close(self) -> None:
        self._connection.close()


class GrpcLine:
    def __init__(self, address: str, model: str, headers: dict[str, str], tls: Identity | None = None) -> None:
        from tritonclient.grpc import service_pb2, service_pb2_grpc

        self._messages: Any = service_pb2
        where, options = address.removeprefix("grpcs://"), [("grpc.use_local_subchannel_pool", 1)]
        if tls is None:
            self._channel = grpc.insecure_channel(where, options)
        else:
            files = (path.read_bytes() for path in (tls.ca, tls.key, tls.certificate))
            self._channel = grpc.secure_channel(where, grpc.ssl_channel_credentials(*files), options)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._model = model
        self._metadata = [(name.lower(), value) for name, value in headers.items()]

    def ask(self, number: int) -> float:
        tensor = self._messages.ModelInferRequest.InferInputTensor(name="x", datatype="FP64", shape=[1, 1])
        tensor.contents.fp64_contents.append(number)
        request = self._messages.ModelInferRequest(model_name=self._model, inputs=[tensor])
        try:
            answer = self._stub.ModelInfer(request, timeout=ANSWER_SECONDS, metadata=self._metadata)
        except grpc.RpcError as error:
            code, text = error.code(), str(error.details())
            if "failed to connect" in text.lower():
                raise Unreachable(text) from None
            if code == grpc.StatusCode.UNAVAILABLE and any(words in text for words in _BROKEN_WORDS):
                raise Broken(f"{code.name} {text[:200]}") from None
            raise Refused(f"{code.name} {text[:200]}") from None
        import numpy as np

        return float(np.frombuffer(answer.raw_output_contents[0], np.float64)[0])

    def close(self) -> None:
        self._channel.close()


class Load:
    """Clients in threads, until `stop`. Client number i begins at the address number i, and goes on to the next one
    when it can't connect, or its connection has broken."""

    def __init__(
        self,
        addresses: Sequence[str],
        model: str,
        factors: Sequence[int],
        clients: int = 4,
        headers: dict[str, str] | None = None,
        tls: Identity | None = None,
    ) -> None:
        """`addresses` are URLs for HTTP, HOST:PORT for gRPC, perhaps behind grpcs://. An answer that tells none of
        `factors` is wrong."""
        self.account = Account()
        self.answered: list[Answer] = []
        self.begun = [0] * clients
        """How many requests each client has sent. It sends the next one when it is answered, or given up."""
        self._addresses, self._model, self._headers, self._tls = addresses, model, headers or {}, tls
        self._factors = set(factors)
        self._numbers = itertools.count(1)
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._client, args=(index,)) for index in range(clients)]

    def start(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> Account:
        """Ends after the answers that are due. Idempotent."""
        self._end.set()
        for thread in self._threads:
            thread.join()
        return self.account

    def count(self) -> int:
        return sum(self.account.right.values())

    def longest_pause(self) -> float:
        """Seconds without any answer."""
        moments = [answer.came for answer in self.answered]
        return max((later - earlier for earlier, later in itertools.pairwise(moments)), default=0.0)

    def _client(self, client: int) -> None:
        index = client
        line = self._line(index)
        while not self._end.is_set():
            self.begun[client] += 1
            number, asked = next(self._numbers), time.monotonic()
            try:
                self._note(number, asked, line.ask(number))
                continue
            except Unreachable:
                self._count("unreachable")
                time.sleep(0.02)
            except Refused as error:
                with self._lock:
                    self.account.refused[str(error)] += 1
                time.sleep(0.02)
                continue
            except Broken as error:
                with self._lock:
                    self.account.broken.append(f"{self._addresses[index % len(self._addresses)]} {error}")
            line.close()
            index += 1
            line = self._line(index)
        line.close()

    def _line(self, index: int) -> Line:
        address = self._addresses[index % len(self._addresses)]
        return (HttpLine if address.startswith("http") else GrpcLine)(address, self._model, self._headers, self._tls)

    def _note(self, number: int, asked: float, answer: float) -> None:
        factor = answer / number
        with self._lock:
            if factor in self._factors:
                self.account.right[int(factor)] += 1
                self.answered.append(Answer(asked, time.monotonic(), int(factor)))
            else:
                self.account.wrong.append(f"{number}: {answer}")

    def _count(self, name: str) -> None:
        with self._lock:
            setattr(self.account, name, getattr(self.account, name) + 1)


@contextlib.contextmanager
def loaded(
    addresses: Sequence[str],
    model: str,
    factors: Sequence[int],
    clients: int = 4,
    headers: dict[str, str] | None = None,
    tls: Identity | None = None,
) -> Iterator[Load]:
    """The load has begun to be answered when the block begins, and ends with it."""
    load = Load(addresses, model, factors, clients, headers, tls).start()
    try:
        deadline = time.monotonic() + ANSWER_SECONDS
        while load.count() < 2 * clients:
            assert time.monotonic() < deadline, str(load.account)
            time.sleep(0.01)
        yield load
    finally:
        load.stop()
