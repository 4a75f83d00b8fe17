"""Versions change while requests flow: each is answered, by one of the two."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests
from numpy.typing import NDArray
from tritonclient import grpc as triton

from pdserver.dialects.protos import message_class
from tests.conftest import Lent, fit_file, pack_handler
from tests.oip.triton_grpc import tensor
from tests.running import RunningServer, eventually

Predict = message_class("tensorflow.serving.PredictRequest")
Predicted = message_class("tensorflow.serving.PredictResponse")
CHANGES = 10
ABSENT = ("not found", "being unloaded", "has not been loaded")
"""What requests are told while there is no version."""
LARGE_ROWS = 800
"""As JSON, more than codec processes leave to the front end."""


class Refused(Exception):
    """An answer that is an error."""


class Asking(threading.Thread):
    """Asks one request after the other, each with numbers of its own, and notes which version answers."""

    def __init__(self, ask: Callable[[NDArray[Any]], tuple[NDArray[Any], str]], rows: int, weights: Any) -> None:
        super().__init__(daemon=True)
        self._ask = ask
        self._rows = rows
        self._weights = weights
        self.stopped = False
        self.versions: list[str] = []
        self.refusals: list[str] = []
        self.wrong: list[str] = []

    def run(self) -> None:
        numbers = np.random.default_rng(self._rows)
        while not self.stopped:
            given = numbers.normal(size=(self._rows, 13)).astype(np.float32)
            try:
                got, version = self._ask(given)
            except Exception as error:
                self.refusals.append(f"{type(error).__name__}: {error}")
                continue
            expected = given @ self._weights["w"] + self._weights["b"]
            if not np.allclose(got, expected, rtol=1e-4, atol=1e-5):
                self.wrong.append(f"{got} for {expected}")
            self.versions.append(version)


@contextmanager
def asking(server: RunningServer, fit_model: Path) -> Iterator[dict[str, Asking]]:
    """Clients of several languages that name no version, and have had an answer."""
    weights = np.load(fit_model / "weights.npz")
    with ExitStack() as stack:
        small, large, plain, row, rows = (stack.enter_context(requests.Session()) for _ in range(5))
        triton_client = stack.enter_context(triton.InferenceServerClient(server.grpc_inference))
        channel = stack.enter_context(grpc.insecure_channel(server.grpc_inference))
        clients = {
            "REST": Asking(lambda given: inferred(small, server, given), 1, weights),
            "large REST": Asking(lambda given: inferred(large, server, given), LARGE_ROWS, weights),
            "gRPC": Asking(lambda given: called(triton_client, given), 2, weights),
            "predictions": Asking(lambda given: predicted(plain, server, given), 3, weights),
            "TensorFlow's REST": Asking(lambda given: served(row, server, given), 1, weights),
            "TensorFlow's REST, large": Asking(lambda given: served(rows, server, given), LARGE_ROWS, weights),
            "TensorFlow's gRPC": Asking(lambda given: asked(channel, given), 2, weights),
        }
        for client in clients.values():
            client.start()
        try:
            each_is_answered(clients)
            yield clients
        finally:
            for client in clients.values():
                client.stopped = True
            for client in clients.values():
                client.join(60)


def inferred(session: requests.Session, server: RunningServer, given: NDArray[Any]) -> tuple[NDArray[Any], str]:
    named = {"name": "x", "datatype": "FP32", "shape": list(given.shape), "data": given.ravel().tolist()}
    answer = session.post(f"{server.inference}/v2/models/fit/infer", json={"inputs": [named]}, timeout=60)
    if answer.status_code != 200:
        raise Refused(answer.text)
    said = answer.json()
    [output] = said["outputs"]
    return np.reshape(output["data"], output["shape"]), said["model_version"]


def called(client: Any, given: NDArray[Any]) -> tuple[NDArray[Any], str]:
    answer = client.infer("fit", [tensor("x", given, "FP32")])
    response = answer.get_response()
    return answer.as_numpy(response.outputs[0].name), response.model_version


def predicted(session: requests.Session, server: RunningServer, given: NDArray[Any]) -> tuple[NDArray[Any], str]:
    answer = session.post(f"{server.inference}/predictions/fit", json=given.tolist(), timeout=60)
    if answer.status_code != 200:
        raise Refused(answer.text)
    [output] = answer.json().values()
    return np.array(output), ""


def served(session: requests.Session, server: RunningServer, given: NDArray[Any]) -> tuple[NDArray[Any], str]:
    answer = session.post(f"{server.inference}/v1/models/fit:predict", json={"instances": given.tolist()}, timeout=60)
    if answer.status_code != 200:
        raise Refused(answer.text)
    return np.array(answer.json()["predictions"]), ""


def asked(channel: grpc.Channel, given: NDArray[Any]) -> tuple[NDArray[Any], str]:
    message = Predict()
    message.model_spec.name = "fit"
    tensor = message.inputs["x"]
    tensor.dtype, tensor.tensor_content = 1, given.tobytes()
    for length in given.shape:
        tensor.tensor_shape.dim.add(size=length)
    call: Any = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    try:
        answer = Predicted.FromString(call(message.SerializeToString(), timeout=60))
    except grpc.RpcError as error:
        raise Refused(str(error)) from None
    [output] = answer.outputs.values()
    return np.reshape(output.float_val, [dim.size for dim in output.tensor_shape.dim]), str(
        answer.model_spec.version.value
    )


def each_is_answered(clients: dict[str, Asking], *, refusable: bool = False) -> None:
    """Wait until every client has had one more answer."""
    seen = {client: len(client.versions) for client in clients.values()}

    def answered() -> bool:
        assert refusable or not any(client.refusals for client in seen), [client.refusals[:3] for client in seen]
        return all(len(client.versions) > before for client, before in seen.items())

    eventually(answered)


def register(server: RunningServer, version: str) -> None:
    answer = server.manage("POST", f"/models?url=fit_{version}.pdar&model_name=fit&synchronous=true")
    assert answer.status_code == 200, answer.text


def done(server: RunningServer, method: str, path: str) -> None:
    answer = server.manage(method, path)
    assert answer.status_code == 200, answer.text


@pytest.fixture
def fit(lent: Lent, fit_model: Path) -> RunningServer:
    """Serves version 1 of fit; version 2 lies beside it."""
    for version in "12":
        archive = pack_handler(
            lent.store, "base_handler", "fit", version, "batchSize: 1000\n", serialized_file=fit_file(fit_model)
        )
        archive.rename(lent.store / f"fit_{version}.pdar")
    register(lent.server, "1")
    return lent.server


def test_no_request_is_lost_while_versions_change(fit: RunningServer, fit_model: Path) -> None:
    versions = itertools.cycle("12")
    with asking(fit, fit_model) as clients:
        old = next(versions)
        for _ in range(CHANGES):
            new = next(versions)
            register(fit, new)
            done(fit, "PUT", f"/models/fit/{new}/set-default")
            done(fit, "DELETE", f"/models/fit/{old}")
            each_is_answered(clients)
            old = new
    for name, client in clients.items():
        assert (client.refusals, client.wrong) == ([], []), name
        runs = [version for version, _ in itertools.groupby(client.versions)]
        assert runs == [""] or len(runs) == CHANGES + 1, f"{name}: it went back, or stayed: {runs}"


def test_what_was_taken_is_answered_when_the_old_version_goes_first(fit: RunningServer, fit_model: Path) -> None:
    with asking(fit, fit_model) as clients:
        for old, new in ("12", "21"):
            done(fit, "DELETE", f"/models/fit/{old}")
            register(fit, new)
            each_is_answered(clients, refusable=True)
    for name, client in clients.items():
        assert client.wrong == [], name
        assert [text for text in client.refusals if not any(words in text for words in ABSENT)] == [], name


def test_an_answer_has_the_labels_of_its_version_though_that_is_unregistered(lent: Lent, tmp_path: Path) -> None:
    server = lent("patient", config=f"folder: {tmp_path}\n")
    url = f"{server.inference}/v1/models/patient"
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(requests.post, f"{url}:classify", json={"examples": [{"x": 1.5}]}, timeout=60)
        try:
            eventually((tmp_path / "begun").exists)
            unregistered = pool.submit(server.manage, "DELETE", "/models/patient")
            eventually(lambda: requests.get(url, timeout=60).status_code == 404)
        finally:
            (tmp_path / "go").touch()
        assert asked.result().json() == {"results": [[["cat", 1.5], ["dog", 1.5]]]}
        assert unregistered.result().status_code == 200


def test_a_new_version_leaves_the_processor_to_those_that_serve_until_it_does(lent: Lent) -> None:
    server = lent("polite")
    pack_handler(lent.store, "polite", version="2")
    done(server, "POST", "/models?url=polite.pdar&synchronous=true")
    assert server.process is not None
    own = os.getpriority(os.PRIO_PROCESS, server.process.pid)
    first, second = (server.predict(f"polite/{version}", b"").json() for version in ("1.0", "2"))
    done(server, "DELETE", "/models/polite/2")
    assert first == {"loading": own, "serving": [own] * 3}
    assert second["loading"] == (min(19, own + 10) if may_rise() else own)
    assert second["serving"] == [own] * 3


def may_rise() -> bool:
    code = "import os; os.nice(1); os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) - 1)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
