"""Configurations, snapshots and messages that are wrong: refused with the place and the fix."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdserver.configuration.loading import load_config
from pdserver.configuration.server import KEYS
from pdserver.configuration.snapshot_text import snapshot_models
from pdserver.errors import ConfigError
from pdserver.management.snapshot import read_last_snapshot
from tests.security.documents import words
from tests.security.victim import Victim

NUMBERS = words("x -1 1.5.5 10S 64MB 0x10 1e3 1_000 １ NaN inf 99999999999999999999 true ½")
KEYS_OF_NUMBERS = words(
    "job_queue_size default_response_timeout default_startup_timeout download_timeout max_archive_size"
    " max_unpacked_size max_archive_entries max_archive_ratio max_request_size metric_time_interval grpc_inference_port"
)
OTHERS = [
    ("inference_address", "8080"), ("inference_address", "ftp://127.0.0.1:1"),
    ("inference_address", "http://127.0.0.1:99999"),
    ("inference_address", "http://a b:1"), ("inference_address", "http://u@h:1"), ("enable_grpc", "yes"),
    ("enable_grpc", "1"),
    ("models", "{"), ("models", "[]"), ("models", '{"a": 1}'), ("models", '{"a": {"1": {"batchSize": 0}}}'),
    ("models", '{"a": {"1": {"batchSise": 1}}}'), ("models", '{"a": {}, "a": {}}'), ("models", "[" * 5000),
    ("models", '{"a": {"1": {"batchSize": NaN}}}'), ("load_models", "all,a.pdar"), ("load_models", "=a.pdar"),
    ("allowed_urls", ".*"), ("allowed_urls", "https://a/.*"), ("allowed_urls", "a.com"),
    ("allowed_urls", "10.0.0.0/99"),
    ("model_snapshot", "{"), ("model_snapshot", '{"models": []}'), ("blacklist_env_vars", "("),
    ("model_store", "/no/such/folder"),
    ("log_format", "xml"), ("metrics_mode", "none"), ("service_envelope", "xml"), ("modle_store", "x"),
    ("allowed_url", "x"),
]  # fmt: skip
SNAPSHOTS = [
    "", "{}", "[]", "null", '{"models": null}', '{"models": {"a": 1}}', '{"models": {"a": {"1": {}}}}',
    '{"models": {"a": {"1": {"marName": 1}}}}', '{"models": {"a": {"1": {"marName": "a", "sha256": "x"}}}}',
    '{"models": {"a": {"1": {"marName": "a", "minWorkers": -1}}}}',
    '{"models": {"a": {"1": {"marName": "a", "x": 1}}}}',
    '{"models": {}, "modelCount": 3}', '{"models": {"a": {}, "a": {}}}', "[" * 50_000,
    '{"models": {"a": {"1": {"marName": "a"',
]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "text"),
    [*((key, text) for key in KEYS_OF_NUMBERS for text in NUMBERS), *OTHERS],
    ids=lambda text: ascii(text)[:24],
)
def test_a_key(tmp_path: Path, key: str, text: str) -> None:
    file = tmp_path / "config.properties"
    store = "" if key == "model_store" else f"model_store={tmp_path}\n"
    file.write_text(f"{store}{key}={text}\n")
    with pytest.raises(ConfigError) as caught:
        load_config({}, {}, file)
    line = 2 if store else 1
    assert f"{file}:{line}: {key}" in str(caught.value)
    assert len(str(caught.value)) < 1000
    if key in KEYS:
        with pytest.raises(ConfigError, match=f"environment variable PD_{key.upper()}="):
            load_config({}, {"PD_MODEL_STORE": str(tmp_path), f"PD_{key.upper()}": text})


@pytest.mark.parametrize("text", SNAPSHOTS, ids=lambda text: text[:30])
def test_a_snapshot(tmp_path: Path, text: str) -> None:
    """It is passed over for the one before it."""
    good = '{"models": {"a": {"1.0": {"marName": "a.pdar"}}}}'
    (tmp_path / "20260101000000000-snapshot.cfg").write_text(f"model_snapshot={good}\n")
    escaped = text.replace("\\", "\\\\")
    (tmp_path / "20260101000000001-snapshot.cfg").write_text(f"model_snapshot={escaped}\n")
    found = read_last_snapshot(tmp_path)
    assert found is not None
    assert [model.url for model in found] == ["a.pdar"]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
lambda inner: st.lists(inner, max_size=3)
       | st.dictionaries(st.sampled_from(words("models a 1.0 marName minWorkers sha256 defaultVersion")), inner,
       max_size=3)))  # fmt: skip
def test_any_snapshot_is_models_or_refused(value: object) -> None:
    with suppress(ValueError):
        assert len(snapshot_models(json.dumps({"models": value}))) <= 9


MESSAGES = [
    b"\xff", b"\x0a", b"\x0a\xff", b"\x0a\x05ab", b"\x08", b"\x0b" * 200, b"\x0c", b"\x0a\x02\xff\xfe", b"\x07\x01",
    b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x00\x01", b"\x1a\x02\x0a\xff",
    b"\xf8\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
]  # fmt: skip
METHODS = [
    ("grpc_inference", "org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"),
    ("grpc_inference", "inference.GRPCInferenceService/ModelInfer"),
    ("grpc_inference", "inference.GRPCInferenceService/ModelMetadata"),
    ("grpc_management", "org.pytorch.serve.grpc.management.ManagementAPIsService/RegisterModel"),
    ("grpc_management", "org.pytorch.serve.grpc.management.ManagementAPIsService/ScaleWorker"),
]


@pytest.mark.parametrize(("port", "method"), METHODS, ids=lambda text: text.rpartition("/")[2])
def test_messages_that_are_none(victim: Victim, port: str, method: str) -> None:
    with grpc.insecure_channel(getattr(victim.server, port)) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            f"/{method}", request_serializer=None, response_deserializer=None
        )
        for data in MESSAGES:
            with pytest.raises(grpc.RpcError) as caught:
                call(data, timeout=60)
            code = caught.value.code()
            assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND), (data, caught.value)
            assert "Traceback" not in str(caught.value.details())
    victim.answers()
