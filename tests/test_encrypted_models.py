"""Encrypted models are served from memory: by a key that only the operator gives, and that nobody else gets to see."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from starlette.requests import Request

from pdarchiver import encryption
from pdserver.configuration.loading import load_config
from pdserver.engine.specs import Specs
from pdserver.errors import ConfigError, Forbidden
from pdserver.management import use_key
from pdserver.security.models import check_files
from pdserver.store.model import StoredModel
from tests.conftest import run_script
from tests.encrypting import encrypted
from tests.paddle_clients import PaddleClients
from tests.paddle_clients import compiled_client as compiled_client
from tests.paddle_clients import paddle_clients as paddle_clients
from tests.pdarchiver.conftest import models  # noqa: F401 - a fixture
from tests.running import RunningServer, run_directory

SUFFIX = {"pir": ".json", "desc": ".pdmodel"}
THEIRS = """
import sys
from pathlib import Path
from paddle.base import core
folder, key = Path(sys.argv[1]), core.CipherUtils.gen_key(int(sys.argv[2]))
(folder / "key").write_bytes(key)
cipher = core.CipherFactory.create_cipher()
plain = (folder / "plain").read_bytes()
(folder / "theirs").write_bytes(cipher.encrypt(plain, key))
assert cipher.decrypt((folder / "ours").read_bytes(), (folder / "our_key").read_bytes()) == plain
"""


@pytest.mark.parametrize("bits", [128, 256])
def test_the_form_is_paddles(tmp_path: Path, bits: int) -> None:
    """Each side reads what the other one wrote."""
    plain = bytes(range(256)) * 40 + b"not a whole block"
    with encryption.new_key(tmp_path / "our_key") as key, (tmp_path / "ours").open("wb") as ours:
        encryption.encrypt(io.BytesIO(plain), ours, key)
    (tmp_path / "plain").write_bytes(plain)
    run_script("-c", THEIRS, tmp_path, bits)
    with (tmp_path / "theirs").open("rb") as theirs:
        found = b"".join(encryption.decrypted(theirs, encryption.read_key(tmp_path / "key")))
    assert found == plain


class Hidden:
    """A server with the encrypted models `pir` and `desc`, the key for which is in the file `key`."""

    def __init__(self, server: RunningServer, key: Path, plain: Path) -> None:
        self.server, self.key, self.plain = server, key, plain


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Hidden]:  # noqa: F811
    folder = tmp_path_factory.mktemp("encrypted")
    (folder / "store").mkdir()
    for kind in SUFFIX:
        source = models / kind / f"convolution{SUFFIX[kind]}"
        encrypted(source, folder / kind, folder / "store", kind, "picture")
        shutil.copy(source.with_suffix(".pdiparams"), folder / f"{kind}.pdiparams")
    encrypted(models / "pir" / "linear.json", folder / "other", folder / "store", "other", "picture")
    settings = {
        "model_key_file": str(folder / "pir" / "key"),
        "models": f'{{"desc": {{"1.0": {{"modelKeyFile": "{folder / "desc" / "key"}"}}}}}}',
    }
    with RunningServer(folder / "server", folder / "store", "pir.pdar,desc.pdar", settings) as server:
        yield Hidden(server, folder / "pir" / "key", models)


@pytest.mark.parametrize("kind", SUFFIX)
def test_it_is_served_with_the_models_real_shapes(hidden: Hidden, kind: str) -> None:
    """The prototxt lacks the lengths that are not fixed; they come from the model itself."""
    server = hidden.server
    picture = [[[0.5] * 8] * 9] * 3
    answer = server.predict(kind, json={"picture": [picture]})
    assert answer.status_code == 200, answer.text
    [scores] = answer.json()["scores"] if isinstance(answer.json()["scores"][0], list) else [answer.json()["scores"]]
    assert sum(scores) == pytest.approx(1, abs=1e-5)
    described = server.session.get(f"{server.inference}/v2/models/{kind}", timeout=60).json()
    assert described["inputs"] == [{"name": "picture", "datatype": "FP32", "shape": [-1, 3, -1, -1]}]
    assert described["outputs"][0]["name"] == "scores"


def test_nothing_shows_the_key_and_no_disk_has_the_model(hidden: Hidden) -> None:
    server = hidden.server
    assert server.process is not None
    keys = [path.read_bytes() for path in hidden.key.parent.parent.glob("*/key")]
    assert len(keys) == 3
    spellings = [spelling for key in keys for spelling in (key, key.hex().encode(), base64.b64encode(key))]
    spellings += [repr(key)[2:-1].encode() for key in keys]
    said = [
        server.manage("GET", path).content for path in ("/models", "/models/pir?customized=true", "/api-description")
    ]
    written = [path for path in server.folder.rglob("*") if path.is_file()]
    assert any(path.name == "pdserver.log" for path in written)
    in_use = [path for path in run_directory(server.process.pid).rglob("*") if path.is_file()]
    assert any(path.name == "encrypt_model" for path in in_use)
    contents = [path.read_bytes() for path in (*written, *in_use)]
    assert not [text for text in spellings for content in (*said, *contents) if text in content]
    plain = (hidden.plain / "pir" / "convolution.json").read_bytes()[:60]
    weights = (hidden.plain / "pir" / "convolution.pdiparams").read_bytes()[:60]
    assert not [content for content in contents if plain in content or weights in content]


def test_the_wrong_key_is_a_clear_error(hidden: Hidden) -> None:
    answer = hidden.server.manage("POST", "/models?url=other.pdar&initial_workers=1&synchronous=true")
    assert answer.status_code >= 400
    assert re.search(r"encrypt_model: decrypted with this key, it is not a Paddle model", answer.text), answer.text
    assert "check that model_key_file" in answer.text
    assert str(hidden.key.read_bytes()) not in answer.text
    assert hidden.server.manage("GET", "/models/other").status_code == 404


# Where keys come from


def specs(**more: Any) -> Specs:
    return Specs({}, more.pop("defaults", {}), "base_handler", **more)


def stored(folder: Path) -> StoredModel:
    from pdarchiver.manifest import Manifest

    manifest = Manifest(
        model_name="m", serialized_file="encrypt_model", raw={"model": {"serializedFile": "encrypt_model"}}
    )
    return StoredModel("m.pdar", folder, "0", manifest, {}, {})


def test_a_model_without_a_key_is_refused_and_the_error_says_how_to_name_one(tmp_path: Path) -> None:
    def problem(given: Specs) -> str:
        with pytest.raises(ConfigError) as caught:
            given(stored(tmp_path), None, None, {})
        return str(caught.value)

    assert problem(specs()) == (
        "model m version 1.0: it is encrypted: name the file with its key by model_key_file, set PD_MODEL_KEY, or let "
        "clients bring it (use_encryption_model)"
    )
    key = tmp_path / "key"
    named = {"model_key_file": str(key)}
    assert problem(specs(defaults=named)) == f"model m version 1.0: model_key_file={key}: No such file or directory"
    key.write_bytes(b"short secret")
    assert "expected a key of 16, 24 or 32 bytes" in problem(specs(defaults=named))
    assert "short" not in problem(specs(defaults=named))
    key.write_bytes(b"f" * 16)
    spec = specs(defaults=named, model_key=b"e" * 16)(stored(tmp_path), None, None, {})
    assert spec.key == b"f" * 16
    assert "fff" not in repr(spec)
    assert specs(model_key=b"e" * 16)(stored(tmp_path), None, None, {}).key == b"e" * 16


def test_the_key_in_the_environment(tmp_path: Path) -> None:
    def load(text: str) -> Any:
        return load_config({"model_store": str(tmp_path)}, {"PD_MODEL_KEY": text})

    config = load(base64.b64encode(b"k" * 32).decode())
    assert config.model_key == b"k" * 32
    assert config.warnings == ()
    assert "kkk" not in repr(config)
    for text in ("not base64!", base64.b64encode(b"secret").decode()):
        with pytest.raises(
            ConfigError, match=r"^environment variable PD_MODEL_KEY: base64 of a key is expected"
        ) as caught:
            load(text)
        assert text not in str(caught.value)


def test_an_encrypted_model_from_the_network_is_refused() -> None:
    """Nobody can tell what it does."""
    with pytest.raises(Forbidden, match=r"1/encrypt_model.*encrypted and can't be looked through"):
        check_files({"1/encrypt_model": b"\x00" * 100})


# Keys that clients bring


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[tuple[RunningServer, bytes]]:  # noqa: F811
    folder = tmp_path_factory.mktemp("locked")
    (folder / "store").mkdir()
    encrypted(models / "pir" / "linear.json", folder / "house", folder / "store", "house", "picture")
    settings = {"use_encryption_model": "true"}
    with RunningServer(folder / "server", folder / "store", "house.pdar", settings) as server:
        yield server, (folder / "house" / "key").read_bytes()


def bring(server: RunningServer, key: object) -> requests.Response:
    """As Paddle Serving's client does: JSON without a content type that says so."""
    text = base64.b64encode(key).decode() if isinstance(key, bytes) else key
    return requests.post(server.inference, json.dumps({"key": text}), timeout=60)


def test_a_client_brings_the_key(locked: tuple[RunningServer, bytes]) -> None:
    server, key = locked
    features = {"picture": [[1.0] * 13]}
    assert "Model not found: house; not all that was wanted is served" in server.predict("house", json=features).text
    for wrong in (None, 1, "not base64!", "", b"short", b"x" * 17):
        answer = bring(server, wrong)
        assert (answer.status_code, "endpoint_list" in answer.json()) == (400, False)
        assert answer.json()["message"].startswith('expected {"key": the key of 16, 24 or 32 bytes')
    answer = bring(server, b"w" * 16)
    assert answer.status_code == 400, answer.text
    assert "this key is not the models': " in answer.json()["message"]
    assert server.predict("house", json=features).status_code >= 400
    for _ in range(2):
        answer = bring(server, key)
        assert (answer.status_code, answer.json()) == (
            200,
            {"endpoint_list": [int(server.inference.rpartition(":")[2])]},
        )
        assert server.predict("house", json=features).status_code == 200
    answer = bring(server, b"w" * 16)
    assert (answer.status_code, "another key is in use" in answer.json()["message"]) == (403, True)
    assert server.predict("house", json=features).status_code == 200
    written = b"".join(path.read_bytes() for path in server.folder.rglob("*") if path.is_file())
    assert b"Key of encrypted models" in written
    for text in (key, key.hex().encode(), base64.b64encode(key), repr(key)[2:-1].encode()):
        assert text not in written


def test_keys_are_taken_only_where_nobody_can_read_them(hidden: Hidden) -> None:
    """And only if the operator said so."""
    assert bring(hidden.server, b"w" * 16).status_code == 405
    for scheme, client, private in (
        ("http", "127.0.0.1", True),
        ("http", "::1", True),
        ("http", "::ffff:127.0.0.1", True),
        ("http", "192.0.2.1", False),
        ("https", "192.0.2.1", True),
    ):
        scope = {
            "type": "http", "scheme": scheme, "client": (client, 1), "path": "/", "headers": [], "server": ("here", 80)
        }  # fmt: skip
        assert use_key.is_private(Request(scope)) == private


USE_KEY = """
from paddle_serving_client import Client
import numpy as np

client = Client()
client.load_client_config(sys.argv[1])
client.use_key(sys.argv[2])
client.connect([sys.argv[3]], encryption=True)
give(client.predict(feed={"picture": np.ones((1, 13), "float32")}, fetch=["scores"], batch=True))
os._exit(0)  # its threads crash now and then when Python ends
"""


def test_paddle_servings_own_client_brings_it(
    locked: tuple[RunningServer, bytes], compiled_client: PaddleClients, tmp_path: Path
) -> None:
    server, key = locked
    (tmp_path / "key").write_bytes(key)
    conf = server.folder.parent / "house" / "client" / "serving_client_conf.prototxt"
    answer = compiled_client.run(USE_KEY, conf, tmp_path / "key", server.inference.removeprefix("http://"))
    [expected] = server.predict("house", json={"picture": [[1.0] * 13]}).json()["scores"]
    assert answer["scores"]["data"] == pytest.approx(np.ravel(expected), rel=1e-6)
