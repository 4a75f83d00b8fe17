"""Models that do more than compute: refused when they come over the network, before anything of theirs is run."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from pdarchiver.pack import PackOptions, pack
from pdserver.errors import Forbidden
from pdserver.security.models import check_files
from tests import onnx_files, unsafe_models
from tests.conftest import Serve
from tests.pdarchiver.test_operations import UNSAFE
from tests.running import RunningServer
from tests.security.file_server import FileServer

EVIL = "http://evil.com"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of this module's own: what they write is looked for."""
    return unsafe_models.made(tmp_path_factory.mktemp("models"))


@pytest.fixture
def allowed(models: Path) -> Iterator[Path]:
    """The same, for a test that lets them write."""
    yield models
    for path in unsafe_models.written(models):
        path.unlink()


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


def settings(folder: Path, elsewhere: FileServer) -> dict[str, str]:
    (folder / "repository").mkdir()
    return {
        "model_repository": str(folder / "repository"),
        "model_control_mode": "explicit",
        "allowed_urls": f"{elsewhere.url}/",
        "disable_system_metrics": "true",
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, elsewhere: FileServer) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "store").mkdir()
    with RunningServer(folder / "server", folder / "store", "", settings(folder, elsewhere)) as server:
        yield server


def load(server: RunningServer, files: dict[str, bytes], **headers: str) -> requests.Response:
    given = {f"file:{name}": base64.b64encode(content).decode() for name, content in files.items()}
    return requests.post(
        f"{server.inference}/v2/repository/models/sent/load",
        json={"parameters": {"config": "{}", **given}},
        headers=headers,
        timeout=60,
    )


def predict(server: RunningServer, name: str) -> requests.Response:
    body: dict[str, Any] = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 1]}]}
    return requests.post(f"{server.inference}/v2/models/{name}/infer", json=body, timeout=60)


def archive(models: Path, folder: Path, model: str, extra: Path | None = None) -> Path:
    return pack(
        PackOptions(
            model_name=Path(model).stem,
            version="1.0",
            serialized_file=models / model,
            extra_files=(str(extra),) if extra else (),
            export_path=folder,
        )
    )


# Brought along by a call


@pytest.mark.parametrize("model", UNSAFE)
def test_a_model_that_a_call_brings_along(server: RunningServer, models: Path, model: str) -> None:
    answer = load(server, {f"1/model{Path(model).suffix}": (models / model).read_bytes()})
    assert answer.status_code == 403, answer.text
    said = answer.json()["error"]
    assert UNSAFE[model] in said
    assert "allow_unsafe_models=true" in said
    assert f"file 1/model{Path(model).suffix}: " in said
    assert predict(server, "sent").status_code == 404
    assert unsafe_models.written(models) == []


def test_the_same_over_grpc(server: RunningServer, models: Path) -> None:
    files = {"file:1/model.pdmodel": (models / "save.pdmodel").read_bytes()}
    with (
        closing(grpc.InferenceServerClient(server.grpc_inference)) as client,
        pytest.raises(InferenceServerException, match="operation save writes a file") as caught,
    ):
        client.load_model("sent", config="{}", files=files)
    assert caught.value.status() == "StatusCode.PERMISSION_DENIED"
    assert unsafe_models.written(models) == []


def test_whatever_the_file_is_called(server: RunningServer, models: Path) -> None:
    files = {
        "1/model.json": (models / "plain.json").read_bytes(),
        "1/notes.txt": (models / "save.pdmodel").read_bytes(),
    }
    assert "file 1/notes.txt: its operation save" in load(server, files).json()["error"]


def test_a_model_that_computes_is_loaded(server: RunningServer, models: Path) -> None:
    assert load(server, {"1/model.json": (models / "loop.json").read_bytes()}).status_code == 200
    answer = predict(server, "sent")
    assert (answer.status_code, answer.json()["outputs"][0]["data"]) == (200, [4.0, 4.0])
    answer = requests.post(f"{server.inference}/v2/repository/models/sent/unload", timeout=60)
    assert answer.status_code == 200


def test_a_page_can_not_even_have_it_looked_at(server: RunningServer, models: Path) -> None:
    files = {"1/model.pdmodel": (models / "save.pdmodel").read_bytes()}
    for headers in ({"Origin": EVIL}, {"Content-Type": "text/plain"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = load(server, files, **headers)
        assert answer.status_code in (403, 415)
        assert "operation" not in answer.text


# By URL


@pytest.mark.parametrize("model", UNSAFE)
def test_an_archive_by_url(
    server: RunningServer, models: Path, elsewhere: FileServer, tmp_path: Path, model: str
) -> None:
    url = elsewhere.serve(f"/{model}.pdar", archive(models, tmp_path, model).read_bytes())
    answer = server.manage("POST", f"/models?url={url}")
    assert answer.status_code == 403, answer.text
    assert UNSAFE[model] in answer.json()["message"]
    assert "allow_unsafe_models=true" in answer.json()["message"]
    assert server.manage("GET", "/models").json()["models"] == []
    assert unsafe_models.written(models) == []


def test_every_file_of_an_archive(server: RunningServer, models: Path, elsewhere: FileServer, tmp_path: Path) -> None:
    extra = tmp_path / "second"
    extra.mkdir()
    (extra / "weights.bin").write_bytes((models / "save.pdmodel").read_bytes())
    url = elsewhere.serve("/second.pdar", archive(models, tmp_path, "plain.json", extra).read_bytes())
    answer = server.manage("POST", f"/models?url={url}")
    assert (answer.status_code, "weights.bin: its operation save" in answer.json()["message"]) == (403, True)


# What the operator allows, and puts in place


def test_the_operator_can_allow_it(serve: Serve, tmp_path: Path, allowed: Path, elsewhere: FileServer) -> None:
    server = serve("", allow_unsafe_models="true", **settings(tmp_path, elsewhere))
    assert load(server, {"1/model.pdmodel": (allowed / "save.pdmodel").read_bytes()}).status_code == 200
    assert predict(server, "sent").status_code == 200
    assert [path.name for path in unsafe_models.written(allowed)] == ["written-save"]
    url = elsewhere.serve("/allowed.pdar", archive(allowed, tmp_path, "check_numerics.json").read_bytes())
    assert server.manage("POST", f"/models?url={url}").status_code == 200
    predict(server, "check_numerics")
    assert len(unsafe_models.written(allowed)) == 2


@pytest.fixture
def begun_with(serve: Serve, store: Path, allowed: Path, elsewhere: FileServer, tmp_path: Path) -> RunningServer:
    """From the start, a server is to serve an archive of its store and one by URL, both with such a model.

    And one by URL whose model does no more than compute.
    """
    put = archive(allowed, store, "save.pdmodel")
    url = elsewhere.serve("/start.pdar", archive(allowed, tmp_path, "check_numerics.json").read_bytes())
    good = elsewhere.serve("/good.pdar", archive(allowed, tmp_path, "loop.json").read_bytes())
    more = settings(tmp_path, elsewhere)
    return serve(f"{put.name},{url},good={good}", default_service_handler="handler.py", **more)


def test_what_the_operator_put_in_place_is_not_looked_at_and_nothing_else_is_trusted(
    begun_with: RunningServer, allowed: Path, tmp_path: Path
) -> None:
    [problem] = begun_with.ping().json()["problems"].values()
    assert begun_with.ping().status_code == 503
    assert "operation check_numerics writes" in str(problem), "what is wanted from the start, by URL"
    assert predict(begun_with, "check_numerics").status_code == 404
    assert predict(begun_with, "good").json()["outputs"][0]["data"] == [4.0, 4.0]

    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w')\ndef handle(data, context): return data\n".encode()
    answer = load(begun_with, {"1/model.json": (allowed / "plain.json").read_bytes(), "handler.py": code})
    assert (answer.status_code, "handler.py: Python code" in answer.json()["error"]) == (403, True)
    assert not ran.exists()

    assert unsafe_models.written(allowed) == []
    assert predict(begun_with, "save").status_code == 200
    assert [path.name for path in unsafe_models.written(allowed)] == ["written-save"]


def test_an_onnx_model_takes_weights_from_its_own_folder_alone() -> None:
    weight = np.ones((4, 3), np.float32)
    inside, outside = (
        onnx_files.model([], [], (), [onnx_files.weights("w", weight, place)]) for place in ("w.bin", "../../token")
    )
    check_files({"1/model.onnx": inside})
    with pytest.raises(Forbidden, match=r"1/model\.onnx: it takes weights from '\.\./\.\./token', whose name has"):
        check_files({"1/model.onnx": outside})
