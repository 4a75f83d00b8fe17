"""TensorFlow Serving's warm-up records: read, replayed in each worker before it serves, and what is wrong with them."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdserver.configuration.model import ModelSpec
from pdserver.dialects.protos import message_class
from pdserver.errors import ArchiveUnusable
from pdserver.formats.crc32c import crc32c
from pdserver.tensors import array
from pdserver.tfserving.warm_up import FILE, MOST_RECORDS, of_version
from pdserver.types import Interface, Port, Request, Tensor
from tests.conftest import MadeOnce
from tests.tfserving.site import Site, made_versions

PredictionLog = message_class("tensorflow.serving.PredictionLog")
Predict = message_class("tensorflow.serving.PredictRequest")
INTERFACE = Interface([Port("x", "float32", (-1, 1))], [Port("y", "float32", (-1, 1))], batched=True)
SPEC = ModelSpec(name="fit", version="1", url="", directory="", handler="", manifest={}, model_config={})
FLOAT = 1


def slow_crc(data: bytes) -> int:
    """Bit by bit, as RFC 3720 describes it."""
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    value = slow_crc(data)
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def predict(name: str = "x", *numbers: float, signature: str = "", dtype: int = FLOAT) -> bytes:
    log = PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = "of another model"
    request.model_spec.signature_name = signature
    tensor = request.inputs[name]
    tensor.dtype = dtype
    tensor.float_val.extend(numbers)
    for length in (len(numbers), 1):
        tensor.tensor_shape.dim.add(size=length)
    return bytes(log.SerializeToString())


def examples(kind: str, *numbers: float) -> bytes:
    log = PredictionLog()
    request = getattr(log, kind).request
    request.SetInParent()
    for number in numbers:
        example = request.input.example_list.examples.add()
        example.features.feature["x"].float_list.value.append(number)
    if kind == "multi_inference_log":
        for method in ("classify", "regress"):
            request.tasks.add(method_name=f"tensorflow/serving/{method}").model_spec.name = "m"
    return bytes(log.SerializeToString())


def by(kind: str) -> bytes:
    log = PredictionLog()
    getattr(log, kind).SetInParent()
    return bytes(log.SerializeToString())


def put(folder: Path, content: bytes) -> Path:
    path = folder / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return folder


def replayed(folder: Path, iterations: int = 1) -> list[Request]:
    warm_up = of_version(folder, iterations)
    assert warm_up is not None
    return list(warm_up(SPEC, INTERFACE))


def test_checksums_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # of the catalogue of parametrised CRC algorithms
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert crc32c(b"\xff" * 32) == 0x62A8AB43


@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 1023, 16 * 1024 - 1, 16 * 1024, 17 * 1024 + 5]))
def test_checksums_of_many_bytes_are_those_of_one_after_the_other(seed: int, size: int) -> None:
    data = np.random.default_rng(seed).bytes(size)
    assert crc32c(data) == slow_crc(data) == crc32c(memoryview(data))


def test_every_method_is_replayed_as_often_as_is_said(tmp_path: Path) -> None:
    logs = [
        predict("x", 1.0, 2.0),
        examples("classify_log", 3.0),
        examples("regress_log", 4.0, 5.0),
        examples("multi_inference_log", 6.0),
        PredictionLog().SerializeToString(),
    ]
    put(tmp_path, b"".join(map(record, logs)))
    requests = replayed(tmp_path, 2)
    inputs = [tensor for request in requests for tensor in request.inputs if isinstance(tensor, Tensor)]
    assert [array(tensor).ravel().tolist() for tensor in inputs] == [
        rows for rows in ([1.0, 2.0], [3.0], [4.0, 5.0], [6.0]) for _ in range(2)
    ]
    assert {(request.model, request.version, request.typed) for request in requests} == {("fit", "1", True)}
    assert [request.id for request in requests[::2]] == [f"{FILE}: record {number}" for number in (1, 2, 3, 4)]


def test_a_large_record_is_not_read_number_by_number(tmp_path: Path) -> None:
    numbers = np.random.default_rng(1).normal(size=50_000).astype(np.float32)
    put(tmp_path, record(predict("x", *numbers.tolist())))
    [request] = replayed(tmp_path)
    [tensor] = request.inputs
    assert isinstance(tensor, Tensor)
    np.testing.assert_array_equal(array(tensor)[:, 0], numbers)


def test_elements_that_are_left_out_are_filled_in(tmp_path: Path) -> None:
    log = PredictionLog.FromString(predict("x", 1.5))
    log.predict_log.request.inputs["x"].tensor_shape.dim[0].size = 3
    put(tmp_path, record(log.SerializeToString()))
    [request] = replayed(tmp_path)
    [tensor] = request.inputs
    assert isinstance(tensor, Tensor)
    assert array(tensor).tolist() == [[1.5]] * 3


GOOD = record(predict("x", 1.0))


@pytest.mark.parametrize(
    ("content", "number", "message"),
    [
        (GOOD + GOOD[:-1], 2, "it is cut off"),
        (GOOD + GOOD[:7], 2, "its length is cut off"),
        (GOOD + GOOD[:-1] + bytes([GOOD[-1] ^ 1]), 2, "the checksum of it is wrong"),
        (bytes([GOOD[0] ^ 1]) + GOOD[1:], 1, "the checksum of its length is wrong"),
        (GOOD + b"this is text, and no TFRecord", 2, "write it with tf.io.TFRecordWriter"),
        (record(struct.pack("<Q", 2**63)), 1, "is not a tensorflow.serving.PredictionLog"),
        (record(b"\xff\xff"), 1, "what was sent is not a tensorflow.serving.PredictionLog"),
        (GOOD + record(predict("z", 1.0)), 2, "input tensor alias not found in signature: z"),
        (record(predict("x", 1.0, dtype=9)), 1, "Expects x to be float"),
        (record(predict("x", 1.0, signature="other")), 1, 'signature name: "other" not found'),
        (record(examples("classify_log")), 1, "Input is empty"),
        (GOOD + record(by("session_run_log")), 2, "Unsupported log_type for warmup: session_run_log"),
        (record(by("predict_streamed_log")), 1, "Unsupported log_type for warmup: predict_streamed_log"),
    ],
)
def test_what_cannot_be_replayed_is_told_with_its_number(
    tmp_path: Path, content: bytes, number: int, message: str
) -> None:
    with pytest.raises(ArchiveUnusable) as caught:
        replayed(put(tmp_path, content))
    assert str(caught.value).startswith(f"{FILE}: record {number}: ")
    assert message in str(caught.value)


def test_there_are_so_many_records_at_most(tmp_path: Path) -> None:
    assert len(replayed(put(tmp_path, GOOD * MOST_RECORDS))) == MOST_RECORDS
    with pytest.raises(ArchiveUnusable, match=f"more than {MOST_RECORDS} records"):
        replayed(put(tmp_path, GOOD * (MOST_RECORDS + 1)))


def test_a_version_without_records_is_not_warmed_up(tmp_path: Path) -> None:
    assert of_version(tmp_path, 1) is None


@pytest.fixture(scope="module")
def start(made_once: MadeOnce, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Site]]:
    made = made_versions(made_once)
    started: list[Site] = []

    def start(records: dict[int, bytes], *flags: str) -> Site:
        site = Site(tmp_path_factory.mktemp("warmup"), made)
        for version, content in records.items():
            put(site.put(version), content)
        site.write(site.model("fit", "model_version_policy { all {} }"))
        (site.folder / "monitoring").write_text("prometheus_config { enable: true }")
        started.append(site)
        return site.start(
            f"--model_config_file={site.config}", f"--monitoring_config_file={site.folder / 'monitoring'}", *flags
        )

    yield start
    for site in started:
        site.__exit__(None, None, None)


def test_workers_answer_the_records_before_they_serve(start: Any) -> None:
    good = b"".join(record(log) for log in (predict("x", 1.0), examples("regress_log", 2.0)))
    broken = GOOD + record(predict("z", 1.0))
    site = start(
        {1: good, 2: broken},
        "--num_request_iterations_for_warmup=3",
        "--max_num_load_retries=0",
        "--num_load_threads=2",
    )
    site.reaches({1: "AVAILABLE", 2: "END"})
    status = site.status("fit", 2)
    assert status["error_code"] != "OK"
    assert f"{FILE}: record 2: input tensor alias not found in signature: z" in status["error_message"]
    assert site.ask() == 1
    metrics = site.metrics()
    counts = re.findall(r':model_warmup_latency_count\{model_path=".*/(.*?)",status="(\w+)",\} (.+)', metrics)
    assert sorted(counts) == [("1", "OK", "1.0"), ("2", "INVALID_ARGUMENT", "1.0")]
    [total] = re.findall(r"^pd_requests_total.* (.+)", metrics, re.MULTILINE)
    assert total == "1.0", "those of the warm-up are not counted"


def test_the_warm_up_can_be_left_out(start: Any) -> None:
    site = start({1: b"nonsense"}, "--enable_model_warmup=false")
    site.reaches({1: "AVAILABLE"})
