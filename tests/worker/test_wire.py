"""Frames survive whatever pieces they arrive in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pdserver.errors import Kind
from pdserver.types import Answered, Failure, Part, Reply, Request, Tensor
from pdserver.worker import wire
from pdserver.worker.messages import Batch, FromWorker, ToWorker

REQUESTS = st.builds(
    Request,
    model=st.text(max_size=5),
    version=st.none() | st.text(max_size=5),
    id=st.text(max_size=5),
    inputs=st.lists(
        st.builds(Part, st.text(max_size=5), st.text(max_size=5), st.binary(max_size=200))
        | st.builds(Tensor, st.text(max_size=5), st.just("float32"), st.just((2, 3)), st.binary(max_size=200)),
        max_size=3,
    ),
    headers=st.lists(st.tuples(st.binary(max_size=9), st.binary(max_size=9)), max_size=3),
)
OUTCOMES = st.builds(Reply, st.binary(max_size=200), st.text(max_size=9)) | st.builds(
    Failure, st.sampled_from(Kind), st.text(max_size=9)
)


def read(stream: bytes, pieces: list[int]) -> list[bytes]:
    reader = wire.FrameReader()
    frames: list[bytes] = []
    position = 0
    for size in [*pieces, len(stream)]:
        while size and position < len(stream):
            buffer = reader.buffer()
            assert len(buffer) > 0
            count = min(size, len(buffer), len(stream) - position)
            buffer[:count] = stream[position : position + count]
            position += count
            size -= count
            frames += [bytes(frame) for frame, _ in reader.received(count)]
    return frames


@given(
    st.lists(st.builds(Batch, st.integers(0, 9), st.lists(REQUESTS, max_size=4)), max_size=5),
    st.lists(st.integers(1, 50)),
)
def test_batches_arrive_as_they_were_sent(batches: list[Batch], pieces: list[int]) -> None:
    stream = b"".join(bytes(wire.encode(batch)) for batch in batches)
    decode = wire.decoder(ToWorker).decode
    assert [decode(frame) for frame in read(stream, pieces)] == batches


@given(st.builds(Answered, st.integers(0, 9), st.lists(OUTCOMES, max_size=4), st.floats(0, 1)))
def test_answers_arrive_as_they_were_sent(answers: Answered) -> None:
    decode = wire.decoder(FromWorker).decode
    assert [decode(frame) for frame in read(bytes(wire.encode(answers)), [])] == [answers]


def test_a_frame_larger_than_the_buffer() -> None:
    small = Batch(1, [])
    large = Batch(2, [Request("m", None, "i", [Part("body", "", b"x" * 3_000_000)])])
    stream = b"".join(bytes(wire.encode(batch)) for batch in (small, large, small))
    decode = wire.decoder(ToWorker).decode
    assert [decode(frame) for frame in read(stream, [5, 100_000])] == [small, large, small]


def test_room_is_made_for_what_has_come_and_not_for_what_is_announced() -> None:
    reader = wire.FrameReader()
    head = wire.HEADER.pack(wire.MARK, 0, 2**40)
    reader.buffer()[: len(head)] = head
    assert not list(reader.received(len(head)))
    assert len(reader.buffer()) <= 16 * 1024 * 1024
    payload = bytes(40_000_000)
    frame = wire.HEADER.pack(wire.MARK, 0, len(payload)) + payload
    assert read(frame, [3, 1000, 10**6] + [10**7] * 10) == [payload]
