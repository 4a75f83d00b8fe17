"""Archives that TorchServe's own archiver made, served as they are."""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.running import BIN, RunningServer, eventually

FUNCTION = """
import pathlib

greeting = None

def handle(data, context):
    global greeting
    if data is None:
        folder = pathlib.Path(context.system_properties["model_dir"])
        greeting = (folder / "greeting.txt").read_text() + (folder / "inner" / "more.txt").read_text()
        return None
    return [f"{greeting}, {row['body']}" for row in data]
"""
NAMED = """
def other(data, context):
    return ["other"] * len(data or [])

def serve(data, context):
    return [{"served": context.manifest["model"]["handler"]} for row in data or []]
"""
CLASS = """
import helper

class Service(object):
    def __init__(self):
        self._context = None
        self.initialized = False

    def initialize(self, context):
        self._context = context
        self.initialized = True
        self.model = context.manifest["model"]

    def preprocess(self, batch):
        return [row.get("data") or row.get("body") for row in batch]

    def handle(self, data, context):
        config = context.model_yaml_config
        return [
            {"length": helper.length(value), "version": self.model["modelVersion"], "batch": len(data),
             "scale": config["handler"]["scale"], "type": type(value).__name__}
            for value in self.preprocess(data)
        ]


service = Service()
"""
DERIVED = """
import logging
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import PredictionException

logger = logging.getLogger(__name__)

class Reverse(BaseHandler):
    def initialize(self, context):
        self.initialized = True

    def preprocess(self, data):
        texts = [row["body"] for row in data]
        if "" in texts:
            raise PredictionException("nothing to reverse", 513)
        return texts

    def inference(self, texts, *args, **kwargs):
        return [text[::-1] for text in texts]

    def postprocess(self, texts):
        return texts
"""
READS_BYTES = """
import ast

with open("words.txt") as file:  # in the model's folder, which is where a worker works
    word = file.read()

def handle(data, context):
    if data is None:
        return None
    answers = []
    for row in data:
        text = row.get("data")
        if text is None:
            text = row.get("body")
        if isinstance(text, (bytes, bytearray)):
            text = text.decode("utf-8")
        asked = ast.literal_eval(text)
        answers.append(f"{word}: {asked['question']} / {asked['context']}")
    return answers
"""
READS_FIELDS = """
def handle(data, context):
    return [(row.get("name") or row.get("body")).decode("utf-8").upper() for row in data or []]
"""
LIKE_THE_TRANSFORMERS_EXAMPLE = """
import ast
import json
import logging
import os
from abc import ABC

import numpy as np
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)


class Classifier(BaseHandler, ABC):
    def __init__(self):
        super(Classifier, self).__init__()
        self.initialized = False

    def initialize(self, ctx):
        self.manifest = ctx.manifest
        model_dir = ctx.system_properties.get("model_dir")
        assert os.path.isfile(os.path.join(model_dir, self.manifest["model"]["serializedFile"]))
        with open(os.path.join(model_dir, "setup_config.json")) as file:
            self.setup_config = json.load(file)
        # By the name alone: it is looked for in the working directory.
        assert any(name for name in os.listdir(model_dir) if name.startswith("vocab.") and os.path.isfile(name))
        self.initialized = True

    def preprocess(self, requests):
        ids = []
        for data in requests:
            text = data.get("data")
            if text is None:
                text = data.get("body")
            if isinstance(text, (bytes, bytearray)):
                text = text.decode("utf-8")
            if self.setup_config["captum_explanation"]:
                text = ast.literal_eval(text)["text"]
            logger.info("Received text: '%s'", text)
            ids.append([len(word) for word in text.split()])
        return (np.array(ids), np.ones_like(ids))

    def inference(self, input_batch):
        input_ids_batch, attention_mask_batch = input_batch
        print("This the output size", input_ids_batch.shape)
        return ["Accepted" if row.sum() > 9 else "Not Accepted" for row in input_ids_batch * attention_mask_batch]

    def postprocess(self, inference_output):
        return inference_output

    def get_insights(self, input_batch, text, target):
        if isinstance(text, (bytes, bytearray)):
            text = text.decode("utf-8")
        text_target = ast.literal_eval(text)
        response = {"words": text_target["text"].split(), "importances": input_batch[0][0].tolist()}
        response["delta"] = text_target["target"]
        return [response]
"""
YAML = "minWorkers: 2\nmaxWorkers: 3\nbatchSize: 4\nmaxBatchDelay: 1\nresponseTimeout: 77\nhandler:\n  scale: 3\n"
SUFFIXES = {"default": ".mar", "zip-store": ".mar", "tgz": ".tar.gz", "no-archive": ""}


def archive(
    sources: Path, store: Path, name: str, handler: str, archive_format: str = "default", **flags: Path | str
) -> str:
    """The name in the store of what torch-model-archiver makes; flags as `extra_files=…`."""
    command = [str(BIN / "torch-model-archiver"), "--model-name", name, "--handler", handler]
    command += ["--export-path", str(store), "--archive-format", archive_format]
    for flag, value in {"version": "1.0", **flags}.items():
        command += [f"--{flag.replace('_', '-')}", *([str(value)] if value else [])]
    subprocess.run(command, check=True, capture_output=True, cwd=sources)
    made = name + SUFFIXES[archive_format]
    assert (store / made).exists()
    return made


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for file, text in {
        "function.py": FUNCTION,
        "named.py": NAMED,
        "service.py": CLASS,
        "derived.py": DERIVED,
        "bytes.py": READS_BYTES,
        "fields.py": READS_FIELDS,
        "words.txt": "QA",
        "like_transformers.py": LIKE_THE_TRANSFORMERS_EXAMPLE,
        "setup_config.json": '{"captum_explanation": true}',
        "vocab.txt": "bloomberg",
        "helper.py": "def length(value):\n    return len(value)\n",
        "config.yaml": YAML,
        "requirements.txt": "no-such-package-anywhere==1.0\n",
        "greeting.txt": "Hello",
        "model.pt": "PK",
    }.items():
        (folder / file).write_text(text)
    inner = folder / "extra" / "inner"
    inner.mkdir(parents=True)
    (inner / "more.txt").write_text(" there")
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, sources: Path) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("served")
    store = folder / "store"
    store.mkdir()
    for archive_format in SUFFIXES:
        archive(sources, store, f"function-{archive_format}", "function.py", archive_format,
                extra_files="greeting.txt,extra", serialized_file="model.pt")  # fmt: skip
    archive(sources, store, "named", "named:serve")
    archive(sources, store, "classy", "service.py", version="2.1",
            extra_files="helper.py", config_file="config.yaml", requirements_file="requirements.txt")  # fmt: skip
    archive(sources, store, "derived", "derived", runtime="python3")
    archive(sources, store, "qa", "bytes.py", extra_files="words.txt")
    archive(sources, store, "fields", "fields.py")
    archive(sources, store, "bert", "like_transformers.py", serialized_file="model.pt",
            extra_files="setup_config.json,vocab.txt")  # fmt: skip
    with zipfile.ZipFile(store / "no manifest.mar", "w") as bare:
        bare.write(sources / "derived.py", "derived.py")
    with RunningServer(folder / "server", store, "all", {"default_service_handler": "derived"}) as running:
        yield running


def text(response: requests.Response) -> str:
    assert response.status_code == 200, response.text
    return response.text


def test_a_body_without_a_content_type_reaches_it_as_bytes_and_files_of_the_archive_lie_around_it(
    server: RunningServer,
) -> None:
    """As `curl -T` sends it, and as `curl -F data=@` and `curl -d` do."""
    asked = b'{"question" :"Who?", \'context\': "A puppet"}'
    as_form = {"Content-Type": "application/x-www-form-urlencoded"}
    for said in (
        server.predict("qa", asked),
        server.predict("qa", asked.replace(b"'", b'"')),
        server.predict("qa", asked, headers=as_form),
        server.predict("qa", files={"data": ("qa.txt", asked, "application/octet-stream")}),
        server.predict("qa", files={"data": ("qa", asked)}),
        server.predict("qa", files={"data": (None, asked)}),
    ):
        assert text(said) == "QA: Who? / A puppet"


def test_a_handler_like_torchserves_transformers_example_predicts_and_explains(server: RunningServer) -> None:
    """With the calls of that one, as `curl -T` sends them, but without torch."""
    asked = b'{"text":"Bloomberg has decided", "target":1}'
    assert text(server.predict("bert", asked)) == "Accepted"
    explained = requests.post(f"{server.inference}/explanations/bert", asked, timeout=60)
    assert explained.status_code == 200, explained.text
    assert explained.json() == {"words": ["Bloomberg", "has", "decided"], "importances": [9, 3, 7], "delta": 1}


def test_fields_of_forms_reach_it_as_bytes_whatever_they_hold(server: RunningServer) -> None:
    assert text(server.predict("fields", data={"name": "anna"})) == "ANNA"
    assert text(server.predict("fields", files={"name": (None, "anna")})) == "ANNA"
    assert text(server.predict("fields", b"[true]")) == "[TRUE]"


@pytest.mark.parametrize("archive_format", SUFFIXES)
def test_every_format_of_archive(server: RunningServer, archive_format: str) -> None:
    said = server.predict(f"function-{archive_format}", "you", headers={"Content-Type": "text/plain"})
    assert text(said) == "Hello there, you"
    described = server.describe(f"function-{archive_format}")
    assert described["modelUrl"] == f"function-{archive_format}{SUFFIXES[archive_format]}"


def test_a_named_function(server: RunningServer) -> None:
    assert server.predict("named", "x").json() == {"served": "named:serve"}


def test_a_class_with_config_file_and_requirements(server: RunningServer) -> None:
    answer = server.predict("classy", json=[1, 2, 3]).json()
    assert answer == {"length": 3, "version": "2.1", "batch": 1, "scale": 3, "type": "list"}
    described = server.describe("classy")
    assert (described["modelVersion"], described["minWorkers"], described["maxWorkers"]) == ("2.1", 2, 3)
    assert (described["batchSize"], described["maxBatchDelay"], described["responseTimeout"]) == (4, 1, 77)
    server.logged("classy/2.1: the archive's requirements.txt is not installed")


def test_a_handler_derived_from_torchserves(server: RunningServer) -> None:
    headers = {"Content-Type": "text/plain"}
    assert text(server.predict("derived", "abc", headers=headers)) == "cba"
    failed = server.predict("derived", "", headers=headers)
    assert (failed.status_code, failed.json()["message"]) == (513, "nothing to reverse")


def test_a_handler_with_a_model_of_its_own_has_nothing_to_say_of_it(server: RunningServer) -> None:
    described = server.manage("GET", "/models/derived?customized=true")
    assert (described.status_code, described.json()[0]["customizedMetadata"]) == (200, None)


def test_an_archive_without_a_manifest(server: RunningServer) -> None:
    """Its name is the file's, its handler the default one or that of the call."""
    headers = {"Content-Type": "text/plain"}
    assert text(server.predict("no_manifest", "abc", headers=headers)) == "cba"
    registered = server.manage(
        "POST", "/models",
        params={"url": "no manifest.mar", "model_name": "mine", "handler": "derived.py", "initial_workers": 1,
                "synchronous": "true"},
    )  # fmt: skip
    assert registered.status_code == 200, registered.text
    assert text(server.predict("mine", "abc", headers=headers)) == "cba"


def test_a_model_of_torch_says_what_to_do(server: RunningServer, sources: Path) -> None:
    store = Path(server.settings["model_store"])
    (sources / "plain.py").write_text(
        "from ts.torch_handler.base_handler import BaseHandler\nclass Plain(BaseHandler):\n    pass\n"
    )
    for handler in ("plain.py", "image_classifier"):
        archive(sources, store, "torchy", handler, serialized_file="model.pt", force="")
        refused = server.manage(
            "POST", "/models", params={"url": "torchy.mar", "initial_workers": 1, "synchronous": "true"}
        )
        assert refused.status_code == 400
        assert "model.pt is a model of PyTorch" in refused.json()["message"]
        assert "convert it to Paddle's format" in refused.json()["message"]


def test_a_renamed_archive_with_the_same_content_is_served_once_more(server: RunningServer) -> None:
    store = Path(server.settings["model_store"])
    (store / "again.mar").write_bytes((store / "named.mar").read_bytes())
    assert server.manage("POST", "/models", params={"url": "again.mar", "model_name": "again"}).status_code in (
        200,
        202,
    )
    eventually(lambda: server.predict("again", "x").status_code == 200)
