"""A client that says to a gRPC port what it is told to, frame by frame, and what came back."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import unquote

import hpack
from hyperframe import frame as frames
from hyperframe.frame import Frame

from tests.grpc_client import chaos, inference_pb2, prediction
from tests.running import RunningServer
from tests.security.raw import Oracle

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PREDICTIONS = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"
STREAM = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/StreamPredictions2"
Headers = list[tuple[str, str]]


class Answer(NamedTuple):
    """Of one stream."""

    headers: dict[str, str]
    """Those of the trailers, too."""
    data: bytes

    @property
    def prediction(self) -> bytes:
        assert (self.headers[":status"], self.headers["grpc-status"]) == ("200", "0"), self.headers
        assert self.data[:5] == b"\0" + (len(self.data) - 5).to_bytes(4, "big")
        prediction: bytes = inference_pb2.PredictionResponse.FromString(self.data[5:]).prediction
        return prediction

    @property
    def refusal(self) -> tuple[int, str]:
        """(gRPC's code, what it says)"""
        return int(self.headers["grpc-status"]), unquote(self.headers.get("grpc-message", ""))


def head(path: str = PREDICTIONS, *more: tuple[str, str], **changed: str) -> Headers:
    """A request's; `changed`: other values for the usual headers, with _ for -; an empty one leaves it out."""
    usual = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost", "te": "trailers"}
    usual["content-type"] = "application/grpc"
    usual |= {(f":{name}" if f":{name}" in usual else name.replace("_", "-")): text for name, text in changed.items()}
    return [*((name, text) for name, text in usual.items() if text), *more]


def message(request: Any) -> bytes:
    data: bytes = request.SerializeToString()
    return b"\0" + len(data).to_bytes(4, "big") + data


def mirror(data: bytes) -> bytes:
    return message(prediction("mirror", body=data))


class Frames:
    """Of one connection, which has a table for its heads."""

    def __init__(self) -> None:
        self.encoder = hpack.Encoder()

    def block(self, headers: Headers) -> bytes:
        return self.encoder.encode(headers)

    def headers(self, stream: int, headers: Headers, *flags: str) -> Frame:
        return frames.HeadersFrame(stream, self.block(headers), flags=["END_HEADERS", *flags])

    def request(self, stream: int, body: bytes, headers: Headers | None = None) -> list[Frame]:
        """In as many frames as it takes."""
        pieces = [body[place : place + 16384] for place in range(0, len(body), 16384)] or [b""]
        data = [frames.DataFrame(stream, piece) for piece in pieces]
        data[-1].flags.add("END_STREAM")
        return [self.headers(stream, headers or head()), *data]


class Http2(Frames):
    """A connection."""

    def __init__(self, address: str, *settings: tuple[int, int], preface: bytes = PREFACE) -> None:
        host, _, port = address.rpartition(":")
        self.sock = socket.create_connection((host, int(port)), timeout=60)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().__init__()
        self._decoder = hpack.Decoder()
        self._received = b""
        self.sock.sendall(preface)
        self.send(frames.SettingsFrame(settings=dict(settings)))

    def __enter__(self) -> Http2:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.sock.close()

    def send(self, *said: Frame) -> None:
        self.sock.sendall(b"".join(each.serialize() for each in said))

    def frames(self) -> Iterator[Frame]:
        """What comes, until the server hangs up."""
        while True:
            while len(self._received) >= 9:
                found, size = Frame.parse_frame_header(memoryview(self._received[:9]))
                if len(self._received) < 9 + size:
                    break
                found.parse_body(memoryview(self._received[9 : 9 + size]))
                self._received = self._received[9 + size :]
                yield found
            try:
                piece = self.sock.recv(65536)
            except ConnectionResetError:
                return
            if not piece:
                return
            self._received += piece

    def answers(self, streams: Iterable[int]) -> dict[int, Answer]:
        """Those to these streams, whole, read as fast as they come. One that is reset has the header `reset`."""
        wanted = {stream: Answer({}, b"") for stream in streams}
        waiting = set(wanted)
        for found in self.frames() if waiting else ():
            self.take(found, wanted)
            stream = found.stream_id
            if stream in waiting and (isinstance(found, frames.RstStreamFrame) or "END_STREAM" in found.flags):
                waiting.discard(stream)
                if not waiting:
                    break
        assert not waiting, f"no answer to {waiting}"
        return wanted

    def take(self, found: Frame, answers: dict[int, Answer]) -> None:
        """Put the frame where it belongs, and answer it if it wants to be."""
        stream = found.stream_id
        if isinstance(found, frames.HeadersFrame):
            fields = {str(name): str(text) for name, text in self._decoder.decode(found.data)}
            if stream in answers:
                answers[stream] = Answer(answers[stream].headers | fields, answers[stream].data)
        elif isinstance(found, frames.DataFrame) and found.data:
            if stream in answers:
                answers[stream] = Answer(answers[stream].headers, answers[stream].data + found.data)
            for number in (0, stream):
                self.send(frames.WindowUpdateFrame(number, len(found.data)))
        elif isinstance(found, frames.RstStreamFrame) and stream in answers:
            answers[stream].headers["reset"] = str(found.error_code)
        elif isinstance(found, frames.PingFrame) and "ACK" not in found.flags:
            self.send(frames.PingFrame(0, found.opaque_data, flags=["ACK"]))

    def ask(self, stream: int, body: bytes, headers: Headers | None = None) -> Answer:
        self.send(*self.request(stream, body, headers))
        return self.answers([stream])[stream]

    def farewell(self) -> tuple[int, str]:
        """(HTTP/2's code, what it says), when the server ends the connection."""
        last = [found for found in self.frames() if isinstance(found, frames.GoAwayFrame)][-1]
        return last.error_code, last.additional_data.decode()


@contextmanager
def unharmed(server: RunningServer) -> Iterator[None]:
    """What happens meanwhile does no harm: the server goes on as it was."""
    with Http2(server.grpc_inference) as client:
        assert client.ask(1, message(chaos())).prediction
    oracle = Oracle(server)
    yield
    with Http2(server.grpc_inference) as client:
        assert json.loads(client.ask(1, message(chaos(nonce=5))).prediction)["nonce"] == 5
    oracle.check([])
