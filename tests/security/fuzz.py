"""Fuzzing: `python -m tests.security.fuzz TARGET FOLDER SECONDS`; without arguments, the targets' names.

The inputs begin with those of `seeds`, which are made the same every time. What a target does not expect to be raised
ends the run, and the input that did it is left in FOLDER.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import logging
import socket
import sys
import tempfile
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pdarchiver", "pdserver"]):
    from pdarchiver import archive, manifest, onnx_model, operations
    from pdarchiver.errors import ArchiveError, InvalidModel, UnsafeModel
    from pdarchiver.reading import Limits
    from pdserver.configuration.model import ModelSpec
    from pdserver.configuration.sources import parse_url
    from pdserver.dialects.oip import body, grpc_wire
    from pdserver.dialects.paddle import pipeline, pipeline_message
    from pdserver.dialects.paddle.general import read as read_general
    from pdserver.dialects.paddle.request import Asked
    from pdserver.dialects.paddle.web import read_body
    from pdserver.dialects.paddle.web_request import Known
    from pdserver.dialects.rpc import BidiStreaming, Message, Prediction, RpcCall, Unary
    from pdserver.dialects.tensorflow import examples_message, predict_message
    from pdserver.dialects.tensorflow.request import Asked as AskedByTensorflow
    from pdserver.dialects.tensorflow.tensor_proto import FewElements
    from pdserver.dialects.tensors import from_json
    from pdserver.dialects.torchserve import grpc_wire as torchserve_wire
    from pdserver.dialects.torchserve.multipart import parse_multipart
    from pdserver.engine.queue import Call
    from pdserver.errors import InvalidRequest
    from pdserver.formats import strict_json
    from pdserver.formats.elements import elements
    from pdserver.formats.strict_json import InvalidJson
    from pdserver.grpc.connection import GrpcConnection
    from pdserver.grpc.http2 import frames as frames_of_http2
    from pdserver.grpc.http2.turns import Turns
    from pdserver.grpc.port import GrpcPort, PortLimits
    from pdserver.handlers.runtime.npy import load_npy
    from pdserver.handlers.runtime.rowwise.proof import of_file
    from pdserver.handlers.vision import images
    from pdserver.prpc.connection import PrpcConnection
    from pdserver.prpc.port import PrpcPort
    from pdserver.security.access import OPEN
    from pdserver.system.budget import Budget
    from pdserver.system.connections import Connections
    from pdserver.types import Interface, Outcome, Part, Port, Reply, Request
    from pdserver.worker import wire
    from pdserver.worker.messages import FromWorker

import msgspec

from tests import prpc_client
from tests.pdarchiver import programs
from tests.pdarchiver.crafting import MANIFEST, Crafted, Item, tar_gz, tar_item
from tests.security import documents, onnx_models

_MAX_BYTES = 4096
_LIMITS = Limits(packed_bytes=10**6, unpacked_bytes=10**6, entries=20)
_DTYPES = ("float32", "int8", "uint64", "bool", "bytes", "bfloat16")
_SPEC = ModelSpec(name="m", version="1", url="", directory="", handler="", manifest={}, model_config={})
_INTERFACE = Interface([Port("x", "float32", (-1, 1))], [Port("y", "float32", (-1, 1))], batched=True)
_decode_frame = wire.decoder(FromWorker).decode


def frames(data: bytes) -> None:
    """What a worker that went wrong may write: pieces of any size. The server ends it for these two."""
    reader = wire.FrameReader()
    with suppress(ValueError, msgspec.DecodeError):
        while data:
            buffer = reader.buffer()
            count = min(len(buffer), len(data), 1 + data[0])
            buffer[:count] = data[:count]
            data = data[count:]
            for frame, _ in reader.received(count):
                _decode_frame(frame)


def manifests(data: bytes) -> None:
    try:
        found = manifest.parse(data)
    except ArchiveError:
        return
    assert manifest.parse(manifest.dump(found)) == found
    msgspec.msgpack.encode(dict(found.raw))


def archives(data: bytes) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        inside, around = Path(folder, "a", "b"), Path(folder, "a")
        around.mkdir()
        try:
            archive.unpack(io.BytesIO(data), inside, _LIMITS)
        except ArchiveError:
            assert not inside.exists()
        assert {path.name for path in around.iterdir()} <= {"b"}, "something was written outside"
        assert sum(path.stat().st_size for path in inside.rglob("*") if path.is_file()) <= _LIMITS.unpacked_bytes


def tensors(data: bytes) -> None:
    for given in (data, b"\x93NUMPY" + data):
        with suppress(InvalidRequest):
            assert load_npy(given).nbytes <= len(given)
    with suppress(ValueError):
        elements(data, len(data) % 7)
    with suppress(InvalidRequest):
        from_json("input", _DTYPES[len(data) % len(_DTYPES)], (data[0] % 5,) if data else (), data[1:])


def documents_of_json(data: bytes) -> None:
    with suppress(InvalidJson):
        json.dumps(strict_json.loads(data))
    with suppress(InvalidRequest):
        body.read_json(data)


def messages(data: bytes) -> None:
    with suppress(InvalidRequest):
        grpc_wire.cut(data).message()
    with suppress(InvalidRequest):
        torchserve_wire.split(data)
    with suppress(InvalidRequest):
        torchserve_wire.split(bytes(torchserve_wire.CUT_BYTES) + data)


def general(data: bytes) -> None:
    """Paddle Serving's requests: the first byte says in which form. A second one like the first is read in another way,
    and means the same."""
    asked = Asked(_SPEC, _INTERFACE, [], "", in_json=data[:1] == b"{")
    with suppress(InvalidRequest):
        first = read_general(asked, data)
        again = read_general(asked, data)
        assert msgspec.structs.replace(again, read_us=first.read_us) == first


def serving(data: bytes) -> None:
    """TensorFlow Serving's messages: one that is cut up means the same as one that is read whole."""
    asked = AskedByTensorflow(_SPEC, _INTERFACE, [], "")
    found: list[object] = []
    for cut in (False, True):
        try:
            given = predict_message.cut_inputs(predict_message.cut(data)[1]) if cut else predict_message.whole(data)[1]
            if given is not None:
                found.append([(*i.name, bytes(i.data)) for i in predict_message.read_inputs(asked, given, []).inputs])
        except InvalidRequest:
            found.append(None)
        except FewElements:
            with suppress(InvalidRequest, FewElements):
                predict_message.read_filled(asked, data, 10**6)
            return
    assert found[0] == found[-1]
    with suppress(InvalidRequest):
        examples_message.read_input(asked, data, "regress", 1000)


def web(data: bytes) -> None:
    """Requests of Paddle Serving's web services: the first byte says in which form."""
    known = Known(_SPEC, _INTERFACE, [], "")
    with suppress(InvalidRequest):
        if data[:1] == b"{":
            read_body(known, data, either=True)
        else:
            pipeline.request_of(known, pipeline_message.given_in(pipeline_message.parsed(data)))


def forms(data: bytes) -> None:
    with suppress(InvalidRequest):
        parse_multipart("multipart/form-data; boundary=b", data)


def pictures(data: bytes) -> None:
    with suppress(InvalidRequest):
        images.decode(data, gray=False, max_pixels=10_000)


def urls(data: bytes) -> None:
    try:
        url = parse_url(data.decode("latin-1"))
    except ValueError:
        return
    assert parse_url(str(url)).segments == url.segments


def http2(data: bytes) -> None:
    """A connection to a gRPC port: pieces of any size, and two methods that answer what they are asked."""
    asyncio.run(_talked_to(data))


class _Wire(asyncio.Transport):
    """Takes everything."""

    closed = False

    def write(self, data: object) -> None: ...

    def writelines(self, pieces: object) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close


async def _echo(message: Message, _: RpcCall) -> bytes:
    return bytes(message)


async def _echoes(messages_: AsyncIterator[Message], _: RpcCall) -> AsyncGenerator[bytes, None]:
    async for message in messages_:
        yield bytes(message)


def _settle_soon(call: Call) -> None:
    asyncio.get_running_loop().call_soon(_settle, call)


def _settle(call: Call) -> None:
    if not call.cancelled:
        call.settle(Reply(call.request.inputs[0].data, ""))


def _asked(message: Message, call: RpcCall) -> Request:
    return Request("m", None, "1", [Part("body", "", bytes(message))], call.metadata)


def _answered(_: Request, outcome: Outcome, __: RpcCall) -> bytes:
    assert isinstance(outcome, Reply)
    return bytes(outcome.body)


_PREDICTION = Prediction(_asked, _answered, _settle_soon, OPEN)
_LIMITS_OF_CALLS = PortLimits(
    max_message_bytes=1000, max_connections=9, backlog=9, handshake_seconds=9, max_held_bytes=10**6,
    slow_client_seconds=9, idle_seconds=9, silent_seconds=9,
)  # fmt: skip


async def _talked_to(data: bytes) -> None:
    memory = Budget(10**6)
    port = GrpcPort(
        methods={b"/": _PREDICTION, b"/index.html": BidiStreaming(_echoes, OPEN)},
        limits=_LIMITS_OF_CALLS, memory=memory, check=None, error_of=lambda _: None, http_1_answer=b"", access=None,
        stopping=asyncio.Event(), left=lambda: None, turns=Turns(), connections=Connections(),
    )  # fmt: skip
    connection = GrpcConnection(port)
    with socket.socket() as sock:
        connection.connection_made(_Wire({"socket": sock}))
    data = (frames_of_http2.PREFACE + frames_of_http2.settings([]) if data[:1] < b"\x80" else b"") + data[1:]
    await _received(connection, data)
    assert not connection.streams
    await asyncio.sleep(0)
    assert (connection.waiting_bytes, memory.held_bytes) == (0, 0)


def prpc(data: bytes) -> None:
    """A connection that speaks PRPC: pieces of any size, and a method that answers what it is asked."""
    asyncio.run(_called(data))


async def _received(connection: GrpcConnection | PrpcConnection, data: bytes) -> None:
    """In pieces of any size; then the client has left."""
    while data:
        count = 1 + data[len(data) // 2]
        connection.data_received(data[:count])
        data = data[count:]
        await asyncio.sleep(0)
    connection.connection_lost(None)


class _Kept(_Wire):
    """Keeps what is written."""

    written = b""

    def write(self, data: object) -> None:
        assert isinstance(data, bytes)
        self.written += data


async def _called(data: bytes) -> None:
    """Each call has one answer, but for those that end with the connection."""
    memory, statuses, wire = Budget(10**6), list[object](), _Kept()
    port = PrpcPort(
        services={"s": {"m": Unary(_echo, OPEN), "p": _PREDICTION}}, limits=_LIMITS_OF_CALLS, memory=memory, check=None,
        error_of=lambda _: None, access=lambda entry: statuses.append(entry[4]), connections=Connections(),
    )  # fmt: skip
    connection = PrpcConnection(port)
    connection.connection_made(wire)
    await _received(connection, data)
    await asyncio.sleep(0)
    answers = prpc_client.answers(wire.written)
    assert len(answers) == len(statuses) - statuses.count("ECANCELED")
    assert (memory.held_bytes, set(port.connections)) == (0, set())


def models(data: bytes) -> None:
    """Whatever others read in it that reaches outside is found here, too."""
    try:
        operations.check(io.BytesIO(data))
    except UnsafeModel:
        return
    assert not {"save", "read_file"} & set(programs.types(data))


def onnx(data: bytes) -> None:
    """What it takes and gives, the files that it names, and what its operations show."""
    with suppress(InvalidModel):
        onnx_model.outside(io.BytesIO(data))
    with suppress(UnsafeModel):
        onnx_model.check(io.BytesIO(data))
    with tempfile.NamedTemporaryFile(suffix=onnx_model.SUFFIX) as file:
        file.write(data)
        file.flush()
        of_file(Path(file.name), ())


TARGETS: dict[str, Callable[[bytes], None]] = {
    "frames": frames,
    "manifests": manifests,
    "archives": archives,
    "tensors": tensors,
    "json": documents_of_json,
    "messages": messages,
    "general": general,
    "serving": serving,
    "web": web,
    "forms": forms,
    "pictures": pictures,
    "urls": urls,
    "http2": http2,
    "prpc": prpc,
    "models": models,
    "onnx": onnx,
}


def seeds(target: str) -> list[bytes]:
    """Good inputs, from which the fuzzer begins."""
    if target == "archives":
        deflated = Item(b"a.txt", b"x" * 300, method=8)
        return [Crafted([Item(b"h.py"), deflated]).bytes(), tar_gz([tar_item("h.py"), tar_item("d/a")])]
    if target in ("json", "manifests"):
        return [
            MANIFEST,
            documents.GOOD.encode(),
            b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}',
        ]
    if target == "tensors":
        return [
            b"\x93NUMPY\x01\0"
            + b"\x46\0"
            + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }".ljust(70)
            + bytes(4)
        ]
    if target == "pictures":
        from tests.security.test_bad_images import GOOD

        return list(GOOD.values())
    if target == "frames":
        return [bytes(wire.encode(msgspec.convert(["answers", 1, [], 0.5], FromWorker, strict=False)))]
    if target == "http2":
        head = b"\x83\x86\x84" + frames_of_http2.header(b"content-type", b"application/grpc")
        bidi = head.replace(b"\x84", b"\x85")
        body = b"\0\0\0\0\5hello"
        return [
            b"\0" + frames_of_http2.frame(1, 4, 1, block) + frames_of_http2.frame(0, 1, 1, body * count)
            for block, count in ((head, 1), (bidi, 3))
        ] + [
            b"\0"
            + b"".join(
                frames_of_http2.frame(1, 4, number, head)
                + frames_of_http2.number_frame(8, number, 5)
                + frames_of_http2.frame(0, 1, number, body)
                + frames_of_http2.number_frame(8, 0, 5)
                for number in (1, 3, 5)
            )
        ]
    if target == "prpc":
        packed = gzip.compress(b"hello", 1, mtime=0)
        return [
            prpc_client.frame("s/m", b"hello", 5) + prpc_client.frame("s/m", packed, 6, compress_type=2),
            prpc_client.frame("s/p", b"hello", 7) + prpc_client.frame("s/p", packed, 8, compress_type=2),
            prpc_client.frame("s/m", b"hello", request={"timeout_ms": 9}, attachment_size=2, user_fields={"a": "b"}),
        ]
    if target == "models":
        name = b"\x1a\4save"
        block = b"\x08\0\x10\0\x22%c%b" % (len(name), name)
        kind = {"#": "1.read_file", "A": [{"N": "x", "AT": {"#": "0.a_str", "D": "y"}}], "I": [], "O": []}
        program = {"regions": [{"#": "r", "blocks": [{"#": "b", "args": [], "ops": [kind]}]}]}
        return [
            b"\x0a%c%b\x22\2\x08\0" % (len(block), block),
            json.dumps({"base_code": {"magic": "pir", "version": 1}, "program": program}).encode(),
        ]
    if target == "onnx":
        with zipfile.ZipFile(Path(__file__).parent.parent / "handlers" / "usual_onnx.zip") as usual:
            small = [name for name in usual.namelist() if usual.getinfo(name).file_size <= _MAX_BYTES]
            return [*map(usual.read, small), *(bomb for bomb in onnx_models.BOMBS.values() if len(bomb) <= _MAX_BYTES)]
    if target == "urls":
        return [b"https://models.example.com/prod/a.pdar", b"http://[::1]:80/%41"]
    if target == "general":
        return [
            b'{"tensor": [{"elem_type": 1, "shape": [1, 1], "float_data": ["NaN"], "alias_name": "x"}], "log_id": 1}',
            b"\x0a\x12\x12\4abcd\x50\1\x5a\2\1\1\x6a\1x\x72\1x\x20\7",
            b'{"tensor":[{"float_data":[-2e3],"elem_type":1,"shape":[1,1],"alias_name":"x"}]}',
            b"\x0a\x12\x12\4abcd\x50\1\x5a\2\1\1\x6a\1x\x72\1x",
        ]
    if target == "serving":
        tensor = b"\x08\x01\x12\x08\x12\x02\x08\x01\x12\x02\x08\x01%b\x04\0\0\x80\x3f"
        return [
            *(b"\x0a\x03\x0a\x01m\x12\x17\x0a\x01x\x12\x12" + tensor % field for field in (b"\x22", b"\x2a")),
            b"\x0a\x13\x0a\x11\x0a\x0f\x0a\x0d\x0a\x01x\x12\x08\x12\x06\x0a\x04\0\0\x80\x3f",
        ]
    if target == "web":
        return [
            b'{"key": ["x"], "value": ["array([[1., -2.e-05, nan]], dtype=float32)"], "logid": "1"}',
            b'{"tensors": [{"name": "x", "elem_type": 1, "floatData": ["0.5", 1], "shape": [1, "2"], "lod": []}]}',
            b'{"feed": [{"x": [[0.5]]}], "fetch": ["y"]}',
            b"\x0a\x01x\x12\x031;2",
            b"\x1a\x13\x12\x04abcd\xa0\x01\x01\xaa\x01\x02\x01\x01\xba\x01\x01x",
        ]
    if target == "forms":
        return [b'--b\r\nContent-Disposition: form-data; name="data"\r\n\r\n1\r\n--b--\r\n']
    return [b"\x0a\x01m\x2a\x0e\x0a\x01x\x12\x04FP32\x1a\x01\x01\x3a\x04abcd"]


def main() -> None:
    if len(sys.argv) != 4:
        print(*TARGETS)
        return
    target, folder, seconds = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    corpus = folder / target
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(target)):
        (corpus / f"seed{number}").write_bytes(seed)
    logging.disable()  # a line for each bad input
    options = [f"-max_total_time={seconds}", f"-artifact_prefix={folder}/{target}-", "-rss_limit_mb=2048", "-timeout=5"]
    atheris.Setup(
        [sys.argv[0], *options, f"-max_len={_MAX_BYTES}", "-seed=1", "-verbosity=0", str(corpus)], TARGETS[target]
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
