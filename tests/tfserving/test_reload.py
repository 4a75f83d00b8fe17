"""A server of one model: what clients may reload, TLS on the port for gRPC, and resources that are preserved."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from threading import get_ident
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
import requests
from google.protobuf import text_format

from pdserver.configuration.loading import load_config
from pdserver.dialects.protos import message_class
from pdserver.engine.changes import Changes
from pdserver.engine.engine import Engine
from pdserver.errors import Forbidden, LoadFailed, ModelNotFound
from pdserver.store.archives import Store
from pdserver.tfserving import manager
from pdserver.tfserving.config import WantedModels, wanted_by
from pdserver.tfserving.manager import ServedConfig
from tests.conftest import MadeOnce
from tests.running import eventually
from tests.security.certificates import Pair, authority, signed
from tests.tfserving.site import Site, made_versions

Request, Response = (message_class(f"tensorflow.serving.ReloadConfig{name}") for name in ("Request", "Response"))


BATCHING = """
max_batch_size { value: 16 }
batch_timeout_micros { value: 2000 }
allowed_batch_sizes: 4
allowed_batch_sizes: 16
num_batch_threads { value: 1 }
pad_variable_length_inputs: true
"""


class Secured(Site):
    """Its port for gRPC speaks TLS and asks for certificates."""

    def __init__(self, folder: Path, made: Path) -> None:
        super().__init__(folder, made)
        self.ca = authority(folder / "pki")
        self.server, self.client = (signed(self.ca, folder / "pki", name) for name in ("server", "client"))

    def ssl_config(self) -> Path:
        """With the PEM texts in it."""
        texts = {
            "server_key": self.server.key,
            "server_cert": self.server.certificate,
            "custom_ca": self.ca.certificate,
        }
        file = self.folder / "ssl.config"
        fields = (f"{field}: {path.read_text()!r}\n" for field, path in texts.items())
        file.write_text("".join(fields) + "client_verify: true\n")
        return file

    def reload(self, *configs: str, client: Pair | None = None) -> Any:
        """The code and the message of the answer to a reload."""
        request = text_format.Parse(f"config {{ {''.join(configs)} }}", Request())
        pair = client or self.client
        credentials = grpc.ssl_channel_credentials(
            self.ca.certificate.read_bytes(), pair.key.read_bytes(), pair.certificate.read_bytes()
        )
        with grpc.secure_channel(f"localhost:{self.grpc_port}", credentials) as channel:
            call = channel.unary_unary(
                "/tensorflow.serving.ModelService/HandleReloadConfigRequest",
                Request.SerializeToString,
                Response.FromString,
            )
            try:
                call(request, timeout=60)
            except grpc.RpcError as error:
                return error.code(), error.details()
        return grpc.StatusCode.OK, ""


@pytest.fixture(scope="module")
def site(made_once: MadeOnce, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    site = Secured(tmp_path_factory.mktemp("tfserving-one"), made_versions(made_once))
    site.put(1, "models/fit")
    environment = {
        "PD_TENSORFLOW_ASPIRED_VERSION_POLICY": "resource_preserving",
        "MODEL_NAME": "fit",
        "MODEL_BASE_PATH": str(site.folder / "models"),
        "PD_ALLOWED_URLS": f"{(site.folder / 'allowed').as_uri()}/",
    }
    with site:
        (site.folder / "batching").write_text(BATCHING)
        site.start(
            f"--ssl_config_file={site.ssl_config()}",
            "--max_num_load_retries=0",
            "--enable_batching",
            f"--batching_parameters_file={site.folder / 'batching'}",
            **environment,
        )
        yield site


def listed(*configs: str) -> str:
    return "model_config_list {" + "".join(f" config {{ {config} }}" for config in configs) + " }"


def test_resources_are_preserved(site: Secured) -> None:
    """The old version has ended before the new one begins to load."""
    seen: list[dict[int, str]] = []

    def arrived() -> bool:
        seen.append(site.states())
        return seen[-1] == {1: "END", 2: "AVAILABLE"}

    site.put(2, "models/fit")
    eventually(arrived)
    for states in seen:
        assert states[1] == "END" or states.get(2, "START") in ("START", "END"), seen
    assert site.ask() == 2


def test_batches_are_as_the_parameters_say(site: Secured) -> None:
    described = requests.get(f"{site.address('management')}/models/fit", timeout=60).json()[0]
    assert {key: described[key] for key in ("batchSize", "maxBatchDelay", "minWorkers")} == {
        "batchSize": 16,
        "maxBatchDelay": 2,
        "minWorkers": 1,
    }


def test_the_port_for_grpc_asks_for_certificates(site: Secured, tmp_path: Path) -> None:
    stranger = signed(authority(tmp_path), tmp_path, "stranger")
    assert site.reload(listed(), client=stranger)[0] is grpc.StatusCode.UNAVAILABLE
    assert site.ask() == 2  # REST has no TLS, as theirs


def test_a_client_reloads_the_whole_list(site: Secured) -> None:
    site.put(3, "models/other")
    fit, other = site.model("models/fit"), site.model("models/other")
    fit, other = (text.replace('name: "models/', 'name: "', 1) for text in (fit, other))
    assert site.reload(listed(fit + "version_labels { key: 'stable' value: 2 }", other)) == (grpc.StatusCode.OK, "")
    assert (site.ask("other"), site.ask("fit/labels/stable")) == (3, 2)
    assert site.reload(listed(other))[0] is grpc.StatusCode.OK
    site.reaches({1: "END", 2: "END"})
    assert site.ask("fit") == "Servable not found for request: Latest(fit)"
    assert site.reload(listed(fit))[0] is grpc.StatusCode.OK
    assert site.ask("fit") == 2


@pytest.mark.parametrize(
    ("config", "code", "said"),
    [
        ("", grpc.StatusCode.INVALID_ARGUMENT, ""),
        (listed('name: "fit"'), grpc.StatusCode.INVALID_ARGUMENT, "config 1 (fit): base_path: it is missing"),
        (
            listed('name: "x" base_path: "models/fit"'),
            grpc.StatusCode.INVALID_ARGUMENT,
            "model x: base_path: models/fit: expected an absolute path",
        ),
        (listed('name: "x" base_path: "/etc"'), grpc.StatusCode.PERMISSION_DENIED, "not beside the base paths"),
        (
            listed('name: "x" base_path: "HERE/models/../.."'),
            grpc.StatusCode.PERMISSION_DENIED,
            "allowed by allowed_urls",
        ),
        (
            listed('name: "fit" base_path: "HERE/models/fit" version_labels { key: "a" value: 9 }'),
            grpc.StatusCode.FAILED_PRECONDITION,
            "version_labels: a: version 9 is not available (available: 2)",
        ),
    ],
)
def test_what_is_refused_changes_nothing(site: Secured, config: str, code: grpc.StatusCode, said: str) -> None:
    answer = site.reload(config.replace("HERE", str(site.folder)))
    assert answer[0] is code
    assert said in answer[1]
    assert site.ask() == 2


def test_what_cannot_be_loaded_is_told_to_who_asked_for_it(site: Secured) -> None:
    broken = site.folder / "allowed" / "broken"
    (broken / "1").mkdir(parents=True)
    fit = f'name: "fit" base_path: "{site.folder}/models/fit"'
    code, said = site.reload(listed(fit, f'name: "broken" base_path: "{broken}"'))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "1 servable(s) did not become available: broken/1: " in said
    assert site.status("broken", 1)["error_code"] == "INVALID_ARGUMENT"
    assert site.ask() == 2
    code, said = site.reload(listed(fit, f'name: "lost" base_path: "{site.folder}/allowed/lost"'))
    assert code is grpc.StatusCode.NOT_FOUND
    assert "1 servable(s) did not become available: lost: Could not find base path " in said
    assert site.reload(listed(fit))[0] is grpc.StatusCode.OK


async def _refused_by_the_operator(folder: Path) -> str:
    engine = cast(Engine, SimpleNamespace(changes=Changes()))
    config = load_config({"model_store": str(folder), "enable_model_api": "false"}, {})
    with pytest.raises(Forbidden) as refused:
        await ServedConfig(config, folder, engine, Store(folder, folder / "run")).reload(Request().config)
    return str(refused.value)


def test_the_operator_can_close_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "(enable_model_api=false)" in asyncio.run(_refused_by_the_operator(tmp_path))


def _no_model(name: str) -> Any:
    raise ModelNotFound(name)


async def _following(base_path: str, folder: Path) -> ServedConfig:
    """Without a model in it."""
    engine = SimpleNamespace(
        changes=Changes(), miss=lambda *_: None, dismiss=lambda _: None, catalogue=SimpleNamespace(model=_no_model)
    )
    file = folder / "models.config"
    file.write_text(f'model_config_list {{ config {{ name: "fit" base_path: "{base_path}" }} }}')
    config, store = load_config({"model_store": str(folder)}, {}), Store(folder, folder / "run")
    control = ServedConfig(config, file, cast(Engine, engine), store)
    await control.load()
    return control


def _asking(**base_paths: str) -> Any:
    request = Request()
    for name, base_path in base_paths.items():
        request.config.model_config_list.config.add(name=name, base_path=base_path)
    return request.config


async def _refused_beside(base_path: str, folder: Path) -> str:
    control = await _following(base_path, folder)
    with pytest.raises(Forbidden) as refused:
        await control.reload(_asking(x="/etc"))
    return str(refused.value)


async def _names_after_reloads(folder: Path) -> set[str]:
    control = await _following(f"{folder}/fit", folder)
    for turn in range(5):
        with pytest.raises(LoadFailed):
            await control.reload(_asking(**{f"m{turn}": f"{folder}/none"}))
    return {*control._models}


def test_names_that_nobody_wants_any_more_take_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what a client asks for is checked beside the event loop, since it may be much."""
    monkeypatch.chdir(tmp_path)
    threads = []

    def noted(message: Any, where: str) -> WantedModels:
        threads.append(get_ident())
        return wanted_by(message, where)

    monkeypatch.setattr(manager, "wanted_by", noted)
    assert asyncio.run(_names_after_reloads(tmp_path)) == {"m4"}
    assert len(threads) == 5
    assert get_ident() not in threads


def test_a_base_path_below_the_root_opens_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "base_path: /etc: not beside" in asyncio.run(_refused_beside("/no-models-here", tmp_path))


def test_the_key_is_nobody_elses(site: Secured) -> None:
    [key] = Path(os.environ["XDG_STATE_HOME"], "pdserver").rglob(f"*-{site.grpc_port}/server_key.pem")
    assert (key.stat().st_mode & 0o777, key.parent.stat().st_mode & 0o777) == (0o600, 0o700)
