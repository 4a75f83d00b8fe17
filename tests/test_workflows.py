"""TorchServe's workflows on a real server: registered, asked, removed; their functions, retries and time limits."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from pdarchiver.pack import PackOptions
from pdarchiver.pack import pack as pack_model
from pdarchiver.workflow.pack import WorkflowOptions, pack
from pdserver.management.workflows import WorkflowManagement
from tests.conftest import fit_file, pack_handler
from tests.flow import Flow
from tests.running import BIN, RunningServer, eventually, run_directory

ROOT = Path(__file__).parent.parent
SEVEN = ROOT / "examples" / "digits" / "seven.png"

FUNCTIONS = '''
import json, os, pathlib, time

def prepare(data, context):
    if data is None:
        return None
    return [row.get("data") or row.get("body") for row in data]

copy = copied = prepare

def kept(data, context):
    if data is not None:
        return [row["copy"] for row in data if row["copy"] == row["copied"]]

def features(data, context):
    """Thirteen numbers that depend on the picture."""
    if data is not None:
        return [[list(row["body"][-13:])] for row in data]

def join(data, context):
    if data is not None:
        return [{name: json.loads(value) for name, value in row.items()} for row in data]

def seen(data, context):
    if data is not None:
        return [{name: [type(value).__name__, repr(value)] for name, value in row.items()} for row in data]

def tell(data, context):
    """JSON as text."""
    if data is not None:
        return ['{"rows": %d}' % len(data) for _ in data]

def obey(data, context):
    """Fails so many times, or takes so long, as the request says."""
    if data is None:
        return None
    [row] = data
    order = json.loads(row["body"])
    tries = pathlib.Path(order["tries"])
    with tries.open("a") as file:
        file.write("x")
    if tries.stat().st_size <= order.get("failures", 0):
        raise RuntimeError("not yet")
    time.sleep(order.get("seconds", 0))
    return [str(tries.stat().st_size)]
'''
READING = """
models:
  batch-size: 4
  max-batch-delay: 5
  digits: {url: digits.pdar, max-workers: 2}
  price: {url: fit.pdar}
dag:
  prepare: [digits, features]
  features: [price]
  digits: [join]
  price: [join]
"""
APART = """
models:
  digits: {url: digits.pdar}
dag:
  prepare: [digits, tell]
"""
ASKED = """
models:
  batch-size: 8
  max-batch-delay: 1
  chaos: {url: chaos.pdar, max-workers: 2}
dag:
  prepare: [chaos, copy]
  chaos: [join]
  copy: [join]
"""
OBEYING = """
models: {retry-attempts: 2, timeout-ms: 20000}
dag: {obey: []}
"""


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], str]:
    """Packs a specification and the functions, and gives the file's name in the workflow store."""
    folder = tmp_path_factory.mktemp("workflows")
    (folder / "functions.py").write_text(FUNCTIONS)
    (folder / "store").mkdir()

    def packed(name: str, spec: str) -> str:
        (folder / "spec.yaml").write_text(spec)
        path, _ = pack(
            WorkflowOptions(
                workflow_name=name,
                spec_file=folder / "spec.yaml",
                handler=folder / "functions.py",
                export_path=folder / "store",
                force=True,
            )
        )
        return path.name

    packed.store = folder / "store"  # type: ignore[attr-defined]
    return packed


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, fit_model: Path, archives: Any) -> Iterator[RunningServer]:
    store = tmp_path_factory.mktemp("models")
    shutil.copy(ROOT / "model_store" / "digits.pdar", store)
    pack_model(PackOptions(model_name="fit", version="1.0", serialized_file=fit_file(fit_model), export_path=store))
    pack_handler(store, "chaos")
    pack_handler(store, "broken_load")
    settings = {"workflow_store": str(archives.store), "job_queue_size": "1000"}
    settings["allowed_urls"] = f"{archives.store.as_uri()}/"
    with RunningServer(tmp_path_factory.mktemp("server"), store, "digits.pdar,fit.pdar", settings) as running:
        yield running


@pytest.fixture
def workflow(server: RunningServer, archives: Callable[[str, str], str]) -> Iterator[Callable[[str, str], str]]:
    """Registers a workflow for a test, and gives its URL. After the test, nothing of it is left."""
    names = []
    before = models(server)

    def registered(name: str, spec: str) -> str:
        answer = server.manage("POST", f"/workflows?url={archives(name, spec)}")
        assert (answer.status_code, answer.json()) == (
            200,
            {"status": f"Workflow {name} has been registered and scaled successfully."},
        )
        names.append(name)
        return f"{server.inference}/wfpredict/{name}"

    yield registered
    for name in names:
        answer = server.manage("DELETE", f"/workflows/{name}")
        assert (answer.status_code, answer.json()) == (200, {"status": f'Workflow "{name}" unregistered'})
    assert models(server) == before
    assert server.manage("GET", "/workflows").json() == {"workflows": []}


def models(server: RunningServer) -> list[str]:
    return [model["modelName"] for model in server.manage("GET", "/models").json()["models"]]


def test_two_real_models_functions_and_a_join(
    server: RunningServer, workflow: Callable[[str, str], str], fit_model: Path
) -> None:
    """The answer has what each model says by itself, of a plain body as of a form."""
    url = workflow("reading", READING)
    picture = SEVEN.read_bytes()
    answer = requests.post(url, data=picture, timeout=60)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    found = answer.json()
    assert found["digits"] == server.predict("digits", picture).json()
    weights = np.load(fit_model / "weights.npz")
    expected = np.frombuffer(picture[-13:], np.uint8) @ weights["w"] + weights["b"]
    [price] = found["price"].values()
    np.testing.assert_allclose(np.ravel(price), expected, rtol=1e-4)
    assert requests.post(url, files={"data": picture}, timeout=60).json() == found
    assert requests.put(url, data=picture, timeout=60).json() == found, "curl -T"

    nodes = [f"reading__{node}" for node in ("digits", "features", "join", "prepare", "price")]
    assert models(server) == ["digits", "fit", "reading", *nodes]
    described = server.describe("reading__digits")
    assert (described["batchSize"], described["maxBatchDelay"], len(described["workers"])) == (4, 5, 2)
    assert server.describe("reading__join")["batchSize"] == 1
    assert server.manage("GET", "/workflows").json() == {
        "workflows": [{"workflowName": "reading", "workflowUrl": "reading.war"}]
    }
    assert server.manage("GET", "/workflows/reading").json() == [
        {
            "workflowName": "reading",
            "workflowUrl": "reading.war",
            "minWorkers": 1,
            "maxWorkers": 1,
            "batchSize": 4,
            "maxBatchDelay": 5,
            "workflowDag": "{prepare=[digits, features], features=[price], digits=[join], price=[join]}",
        }
    ]
    assert server.predict("reading", picture).json() == found, "it is a model, too"
    snapshot = max(server.snapshots.glob("*.cfg"), key=lambda path: path.stat().st_mtime_ns).read_text()
    assert "fit" in snapshot
    assert "reading" not in snapshot

    for port, path in ((server.inference, "/wfpredict/reading"), (server.management, "/workflows/{workflow_name}")):
        for method, place in (("OPTIONS", "/"), ("GET", "/openapi.json")):
            paths = requests.request(method, port + place, timeout=60).json()["paths"]
            assert path in paths, (method, place)
    assert list(requests.options(url, timeout=60).json()["paths"]) == ["/ping", "/wfpredict/reading"]


def test_several_leaves_are_a_json_object(server: RunningServer, workflow: Callable[[str, str], str]) -> None:
    picture = SEVEN.read_bytes()
    answer = requests.post(workflow("apart", APART), data=picture, timeout=60)
    assert answer.json() == {"digits": server.predict("digits", picture).json(), "tell": {"rows": 1}}


def test_what_functions_are_given(workflow: Callable[[str, str], str]) -> None:
    """The first node is given the request as it came: JSON and fields of forms by their names. Nodes after it are given
    bytes, whatever the answer before them was."""
    first = workflow("first", "dag: {seen: []}")
    assert requests.post(first, json={"a": 1}, timeout=60).json() == {"body": ["dict", "{'a': 1}"]}
    form = {"left": ("a.bin", b"\x01", "application/octet-stream"), "right": ("b.txt", b"two", "text/plain")}
    assert requests.post(first, files=form, timeout=60).json() == {
        "left": ["bytearray", r"bytearray(b'\x01')"],
        "right": ["str", "'two'"],
    }
    later = workflow("later", "dag: {tell: [seen], prepare: [seen]}")
    assert requests.post(later, json={"a": 1}, timeout=60).json() == {
        "tell": ["bytearray", "bytearray(b'{\"rows\": 1}')"],
        "prepare": ["bytearray", "bytearray(b'{\"a\":1}')"],
    }
    tensor = {"name": "body", "datatype": "BYTES", "shape": [1], "data": ["hi"]}
    reply = requests.post(
        f"{first.partition('/wfpredict')[0]}/v2/models/first/infer", json={"inputs": [tensor]}, timeout=60
    )
    [output] = reply.json()["outputs"]
    assert json.loads(output["data"][0]) == {"body": ["bytearray", "bytearray(b'hi')"]}


def test_large_bodies_come_through_whole(workflow: Callable[[str, str], str]) -> None:
    """They go from node to node as files."""
    url = workflow("large", "dag: {prepare: [copy, copied], copy: [kept], copied: [kept]}")
    body = np.random.default_rng(5).bytes(3 << 20)
    for how in ({"data": body}, {"files": {"data": body}}):
        answer = requests.post(url, timeout=60, **how)
        assert answer.status_code == 200, answer.text[:500]
        assert answer.content == body


def test_archives_by_url(server: RunningServer, archives: Any) -> None:
    """Of the workflow as of its models; the answer to a wrong checksum names the right one."""
    model = (archives.store / "elsewhere.pdar").as_uri()
    shutil.copy(ROOT / "model_store" / "digits.pdar", archives.store / "elsewhere.pdar")
    war = archives.store / archives("far", f"models: {{m: {{url: '{model}'}}}}\ndag: {{prepare: [m]}}")
    query = {"url": war.as_uri(), "sha256": "0" * 64}
    refused = server.manage("POST", "/workflows", json=query)
    assert refused.status_code == 400
    [digest] = re.findall("its sha256 is ([0-9a-f]{64})", refused.json()["message"])
    assert server.manage("POST", "/workflows", json={**query, "sha256": digest}).status_code == 200
    answer = requests.post(f"{server.inference}/wfpredict/far", data=SEVEN.read_bytes(), timeout=60)
    assert answer.json() == server.predict("digits", SEVEN.read_bytes()).json()
    assert server.manage("GET", "/workflows/far").json()[0]["workflowUrl"] == war.as_uri()
    assert server.manage("DELETE", "/workflows/far").status_code == 200
    assert models(server) == ["digits", "fit"]


def test_a_workflow_that_is_removed_answers_what_it_has(
    server: RunningServer, archives: Callable[[str, str], str], tmp_path: Path
) -> None:
    assert server.manage("POST", f"/workflows?url={archives('leaving', OBEYING)}").status_code == 200
    order = {"tries": str(tmp_path / "tries"), "seconds": 0.4}
    with ThreadPoolExecutor(1) as client:
        url = f"{server.inference}/wfpredict/leaving"
        asked = client.submit(requests.post, url, data=json.dumps(order), timeout=60)
        eventually((tmp_path / "tries").exists)
        assert server.manage("DELETE", "/workflows/leaving").status_code == 200
        assert (asked.result().status_code, asked.result().text) == (200, "1")
    assert models(server) == ["digits", "fit"]


def test_a_workflow_is_removed_and_registered_again_while_requests_flow(
    server: RunningServer, archives: Callable[[str, str], str]
) -> None:
    """Each request is answered by the workflow as a whole, or is told that there is none."""
    archive = archives("flowing", "dag: {prepare: [copy, copied], copy: [kept], copied: [kept]}")
    url = f"{server.inference}/wfpredict/flowing"
    assert server.manage("POST", f"/workflows?url={archive}").status_code == 200
    over = threading.Event()

    def asked(client: int) -> Counter[int]:
        seen: Counter[int] = Counter()
        with requests.Session() as session:
            while not over.is_set():
                body = f"{client}-{seen.total()}".encode()
                answer = session.post(url, data=body, timeout=60)
                assert answer.status_code in (200, 404, 503), answer.text
                if answer.status_code == 200:
                    assert answer.content == body
                elif answer.status_code == 404:
                    assert answer.json()["type"] == "WorkflowNotFoundException"
                else:
                    assert "flowing" in answer.json()["message"]
                seen[answer.status_code] += 1
        return seen

    with ThreadPoolExecutor(8) as clients:
        results = [clients.submit(asked, client) for client in range(8)]
        try:
            for _ in range(3):
                assert server.manage("DELETE", "/workflows/flowing").status_code == 200
                assert requests.post(url, data=b"x", timeout=60).status_code == 404
                assert server.manage("POST", f"/workflows?url={archive}").status_code == 200
                assert requests.post(url, data=b"x", timeout=60).content == b"x"
        finally:
            over.set()
        seen = sum((result.result() for result in results), Counter[int]())
    assert seen[200]
    assert seen[404]
    assert server.manage("DELETE", "/workflows/flowing").status_code == 200
    assert models(server) == ["digits", "fit"]


def test_of_registrations_at_once_one_succeeds(server: RunningServer, archives: Callable[[str, str], str]) -> None:
    archive = archives("once", "dag: {prepare: [copy]}")

    def register(_: int) -> tuple[int, str]:
        answer = requests.post(f"{server.management}/workflows?url={archive}", timeout=60)
        return answer.status_code, answer.json().get("message", "")

    with ThreadPoolExecutor(4) as clients:
        answers = sorted(clients.map(register, range(4)))
    assert answers == [(200, ""), *[(409, "Workflow once is already registered.")] * 3]
    assert server.manage("DELETE", "/workflows/once").status_code == 200
    assert server.manage("DELETE", "/workflows/once").status_code == 404
    assert models(server) == ["digits", "fit"]


def test_workflows_are_listed_by_pages(server: RunningServer, workflow: Callable[[str, str], str]) -> None:
    for name in ("page_c", "page_a", "page_b"):
        workflow(name, "dag: {prepare: []}")
    found, token = [], ""
    for count in (2, 1):
        page = server.manage("GET", f"/workflows?limit=2&next_page_token={token or 0}").json()
        assert len(page["workflows"]) == count
        found += page["workflows"]
        token = page.get("nextPageToken", "")
    assert not token
    assert found == [{"workflowName": name, "workflowUrl": f"{name}.war"} for name in ("page_a", "page_b", "page_c")]


def test_retries_and_time_limits(workflow: Callable[[str, str], str], tmp_path: Path) -> None:
    """Two more tries after the first."""
    url = workflow("obeying", OBEYING)
    hurried = workflow("hurried", OBEYING.replace("20000", "600"))

    def obey(name: str, url: str = url, **order: Any) -> requests.Response:
        return requests.post(url, data=json.dumps({"tries": str(tmp_path / name), **order}), timeout=60)

    assert (obey("thrice", failures=2).text, obey("at once").text) == ("3", "1")
    failed = obey("never", failures=3)
    assert failed.status_code == 500
    assert failed.json()["type"] == "InternalServerException"
    assert failed.json()["message"].startswith("node obey: ")
    assert "not yet" in failed.json()["message"]
    assert len((tmp_path / "never").read_text()) == 3
    late = obey("late", hurried, seconds=0.9)
    assert (late.status_code, late.json()["message"]) == (504, "node obey: it took longer than 0.6 s (timeout)")


def test_an_archive_of_torch_workflow_archiver(server: RunningServer, archives: Any, tmp_path: Path) -> None:
    """Registered under another name than its own."""
    (tmp_path / "spec.yaml").write_text("models:\n  digits:\n    url: digits.pdar\ndag:\n  prepare: [digits]\n")
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    flags = ["--workflow-name", "theirs", "--spec-file", "spec.yaml", "--handler", "functions.py"]
    command = [str(BIN / "torch-workflow-archiver"), *flags, "--export-path", str(archives.store)]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    answer = server.manage("POST", "/workflows", json={"url": "theirs.war", "workflow_name": "ours"})
    assert answer.status_code == 200, answer.text
    picture = SEVEN.read_bytes()
    answer = requests.post(f"{server.inference}/wfpredict/ours", data=picture, timeout=60)
    assert answer.json() == server.predict("digits", picture).json()
    assert server.manage("DELETE", "/workflows/ours").status_code == 200
    assert models(server) == ["digits", "fit"]


def test_two_hundred_at_once_and_workers_that_are_killed(
    server: RunningServer, workflow: Callable[[str, str], str]
) -> None:
    """Each request gets its own answer, also while a node's workers are killed again and again."""
    url = workflow("asked", ASKED)

    flow = Flow()

    def is_answered(nonce: int) -> bool:
        with flow.request():
            answer = requests.post(url, data=json.dumps({"nonce": nonce}), timeout=60)
        found = answer.json()
        return answer.status_code == 200 and found["chaos"]["nonce"] == found["copy"]["nonce"] == nonce

    with ThreadPoolExecutor(200) as clients:
        assert all(clients.map(is_answered, range(200)))
    with ThreadPoolExecutor(32) as clients:
        answers = clients.map(is_answered, range(1000))
        killed: set[int] = set()
        while len(killed) < 5:
            pid = max(server.pids("asked__chaos") - killed, default=0)
            if pid:
                flow.kill(pid)
                killed.add(pid)
        assert all(answers)


REFUSED = [
    ("models: {m: {url: none.pdar}}\ndag: {prepare: [m]}", 404, "none.pdar: not in the model store"),
    ("models: {m: {url: broken_load.pdar}}\ndag: {prepare: [m]}", 500, "Workflow Node m failed to register. Details: "),
    ("dag: {nobody: []}", 400, "refused.war: spec.yaml: dag.nobody: neither a model nor a function of functions.py"),
    ("dag: {prepare: [seen], seen: [prepare]}", 400, "refused.war: spec.yaml: dag: it goes in a circle: "),
]


@pytest.mark.parametrize(("spec", "status", "said"), REFUSED, ids=["missing", "broken", "function", "circle"])
def test_what_can_not_be_registered_leaves_nothing(
    server: RunningServer, archives: Any, spec: str, status: int, said: str
) -> None:
    with zipfile.ZipFile(archives.store / "refused.war", "w") as archive:
        manifest = {"workflowName": "refused", "specFile": "spec.yaml", "handler": "functions.py"}
        archive.writestr("WAR-INF/MANIFEST.json", json.dumps({"workflow": manifest}))
        archive.writestr("spec.yaml", spec)
        archive.writestr("functions.py", FUNCTIONS)
    answer = server.manage("POST", "/workflows?url=refused.war")
    assert answer.status_code == status, answer.text
    assert said in answer.json()["message"]
    assert models(server) == ["digits", "fit"]
    assert server.process is not None
    assert not list((run_directory(server.process.pid) / "workflows" / "archives").iterdir())
    assert server.ping().status_code == 200


def test_calls_that_are_refused(server: RunningServer, workflow: Callable[[str, str], str]) -> None:
    url = workflow("known", "dag: {prepare: []}")
    for method, path, status, said in (
        ("POST", "/workflows", 400, "Parameter url is required"),
        ("POST", "/workflows?url=none.war", 404, "none.war: not in the workflow store"),
        ("POST", "/workflows?url=../x.war", 400, "expected the name of a file in the workflow store"),
        ("POST", "/workflows?url=spec.yaml", 400, "spec.yaml: a specification; pack it into an archive: pd-workflow"),
        ("GET", "/workflows?limit=none", 400, "limit"),
        ("GET", "/workflows?next_page_token=x", 400, "next_page_token"),
        ("POST", "/workflows?url=https://models.example/x.war", 403, "models.example"),
        ("POST", "/workflows?url=known.war", 409, "Workflow known is already registered."),
        ("POST", "/workflows?url=known.war&workflow_name=digits", 409, "a model digits is registered already"),
        ("POST", "/workflows?url=known.war&workflow_name=a%20b", 400, "must start with a letter or a digit"),
        ("POST", "/workflows?url=known.war&worflow_name=x", 400, "unknown parameter worflow_name; did you mean"),
        ("POST", "/workflows?url=known.war&response_timeout=soon", 400, "response_timeout=soon"),
        ("GET", "/workflows/knowm", 404, "Workflow not found: knowm; did you mean known?"),
        ("DELETE", "/workflows/digits", 404, "Workflow not found: digits"),
        ("PUT", "/workflows/known", 405, "Requested method is not allowed"),
    ):
        answer = server.manage(method, path)
        assert answer.status_code == status, (method, path, answer.text)
        assert said in answer.json()["message"], (method, path)
    for name in ("digits", "other"):
        answer = requests.post(f"{server.inference}/wfpredict/{name}", data=b"x", timeout=60)
        found = {"code": 404, "type": "WorkflowNotFoundException", "message": f"Workflow not found: {name}"}
        assert (answer.status_code, answer.json()) == (404, found)
    assert requests.post(f"{url}/1.0", data=b"x", timeout=60).status_code == 404
    assert requests.post(f"{server.inference}/wfpredict/", data=b"x", timeout=60).status_code == 400


def test_nodes_that_somebody_else_removed(server: RunningServer, workflow: Callable[[str, str], str]) -> None:
    """The workflow says what it lacks; removing it leaves alone what took a node's place."""
    url = workflow("robbed", "models: {m: {url: digits.pdar}}\ndag: {prepare: [m]}")
    assert server.manage("DELETE", "/models/robbed__m").status_code == 200
    answer = requests.post(url, data=SEVEN.read_bytes(), timeout=60)
    assert answer.status_code == 503
    assert "robbed__m" in answer.json()["message"]
    assert server.manage("POST", "/models?url=fit.pdar&model_name=robbed__m").status_code == 200
    assert server.manage("DELETE", "/workflows/robbed").status_code == 200
    assert models(server) == ["digits", "fit", "robbed__m"]
    assert server.manage("DELETE", "/models/robbed__m").status_code == 200
    assert server.manage("POST", "/workflows?url=robbed.war").status_code == 200


def test_without_the_model_api_workflows_stay_as_they_are() -> None:
    anything: Any = None
    routes = WorkflowManagement(anything, enable_model_api=False).routes()
    assert {method for route in routes for method in getattr(route, "methods", ())} == {"GET", "HEAD"}
