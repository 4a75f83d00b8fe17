"""The same pipeline with its nodes in processes of their own, in one process, and as measured: equal answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pdarchiver.pipeline.reading import read
from pdserver.engine.pipeline.variants import variants
from pdserver.pipeline.run import Plan
from tests.flow import Flow
from tests.pipeline.test_served import BAD, ZOO, houses, order, pack_fit
from tests.running import RunningServer, eventually

WAYS = {
    "apart": "",
    "whole": "fuse: yes\n",
    "inner": "fuse: no\n",
    "group": "fuse: [[each, sum]]\n",
    "measured": "fuse: auto\nsamples: [{order: sample.json}]\n",
    "unmeasured": "fuse: auto\n",
    "timed": "fuse: yes\n",
}


@pytest.fixture(scope="module")
def server(fit_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("fused")
    store = folder / "store"
    store.mkdir()
    archive = pack_fit(fit_model, folder)
    for name, more in WAYS.items():
        own = shutil.copytree(ZOO / "shop", store / name)
        shutil.copy(archive, own / "fit.pdar")
        text = (own / "pipeline.yaml").read_text().replace("model: fit", "archive: fit.pdar")
        if name == "inner":
            text = text.replace("    on_error: skip\n", "    on_error: skip\n    fuse: yes\n")
        if name == "timed":
            text = text.replace("    on_error: skip\n", "    on_error: skip\n    timeout: 300 ms\n")
        (own / "pipeline.yaml").write_text(text + more)
        (own / "sample.json").write_text(json.dumps(order(houses(3))))
    settings = {"models": json.dumps({"timed": {"1.0": {"responseTimeout": 2}}})}
    with RunningServer(folder / "server", store, settings=settings) as server:
        yield server


def nodes(server: RunningServer, name: str) -> list[str]:
    return [node["node"] for node in server.describe(name)["nodes"]]


def ask(server: RunningServer, name: str, given: dict[str, Any]) -> Any:
    answer = server.predict(name, json=given)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    for failure in found["left_out"]:
        failure["message"] = failure["message"].replace("node each+sum/", "node ")  # a group has a name of its own
    for own in ("pid", "batch"):
        del found["total"][own]
    return found


def test_all_ways_give_the_same(server: RunningServer) -> None:
    given = order([*houses(5), BAD, *houses(2, seed=1)], nonce="n")
    apart = ask(server, "apart", given)
    assert len(apart["prices"]) == 7
    assert len(apart["left_out"]) == 1
    for name in WAYS:
        assert ask(server, name, given) == apart, name
        assert ask(server, name, order([]))["prices"] == []


@pytest.mark.parametrize("name", WAYS)
def test_each_node_has_the_engine_of_its_model(server: RunningServer, name: str) -> None:
    told = {node["node"]: node["engine"] for node in server.describe(name)["nodes"] if "engine" in node}
    assert told == {"each+sum/each/price" if name == "group" else "each/price": "paddle"}


def test_a_failure_has_the_same_place_in_one_process(server: RunningServer) -> None:
    """Which of the two it is may be measured, and clients do not know."""
    messages = [server.predict(name, json={"nothing": 1}).json()["message"] for name in ("apart", "whole")]
    assert messages[0].startswith("node open: ")
    assert messages[1] == messages[0]


def test_a_node_may_have_the_name_of_the_whole() -> None:
    """Workers are found by their nodes' paths, also while both ways are there to be measured."""
    text = (
        "{inputs: {x: text}, outputs: {y: pipeline.y}, fuse: auto, samples: [{x: x}], "
        "nodes: {pipeline: {python: 's.py:S', inputs: {x: x}, outputs: [y]}}}"
    )
    plans = [Plan(graph) for graph in variants(read(text.encode(), "pipeline.yaml").graph)]
    assert [step.path for plan in plans for step in plan.leaves()] == ["pipeline", "pipeline_"]


APART = ["open", "each/check", "each/price", "sum"]


def test_nodes_of_one_process_are_named_below_it(server: RunningServer) -> None:
    assert nodes(server, "apart") == APART
    assert nodes(server, "whole") == ["pipeline", *APART]
    assert nodes(server, "inner") == ["open", "each", "each/check", "each/price", "sum"]
    assert nodes(server, "group") == ["open", "each+sum", *(f"each+sum/{path}" for path in APART[1:])]
    assert len(server.pids("whole")) == 1
    fused = {node["node"]: node.get("fusedIn", "") for node in server.describe("inner")["nodes"]}
    assert fused == {"open": "", "each": "", "each/check": "each", "each/price": "each", "sum": ""}
    workers = [worker["node"] for worker in server.describe("inner")["workers"]]
    assert sorted(workers) == ["each", "open", "open", "sum"]


def test_a_node_is_counted_whether_fused_or_not(server: RunningServer) -> None:
    def counted(name: str) -> dict[str, tuple[int, int]]:
        found = {node["node"]: node for node in server.describe(name)["nodes"]}
        return {path: (found[path]["requests"], found[path]["failedRequests"]) for path in APART}

    before = {name: counted(name) for name in ("apart", "whole")}
    for name in before:
        ask(server, name, order([*houses(5), BAD]))
    grown = {
        name: {path: tuple(map(int.__sub__, after, before[name][path])) for path, after in counted(name).items()}
        for name in before
    }
    assert grown["apart"] == {"open": (1, 0), "each/check": (6, 1), "each/price": (5, 0), "sum": (1, 0)}
    assert grown["whole"] == grown["apart"]
    check = next(node for node in server.describe("whole")["nodes"] if node["node"] == "each/check")
    assert check["meanBatchSize"] > 1
    assert check["meanBatchTime"] > 0
    labels = {"model_name": "whole:each/check", "model_version": "1.0"}
    assert server.metric("pd_requests_total", result="succeeded", **labels) >= 5
    assert server.metric("pd_batch_size_count", **labels) >= 1


def test_a_trace_has_the_nodes_of_one_process_below_its_own_span(server: RunningServer) -> None:
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4737", "00f067aa0ba902b7"
    headers = {"traceparent": f"00-{trace}-{parent}-01"}
    with ThreadPoolExecutor(4) as pool:  # in one batch with others, whose runs are none of its own
        others = [pool.submit(ask, server, "whole", order(houses(2, seed=seed))) for seed in range(12)]
        assert server.predict("whole", json=order([*houses(2), BAD]), headers=headers).ok
        for other in others:
            other.result()
    file = server.folder / "logs" / "traces.log"
    eventually(lambda: file.exists() and trace in file.read_text())
    [line] = [line for line in file.read_text().splitlines() if trace in line]
    spans = json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    [process] = [span for span in spans if span["name"] == "pipeline"]
    inner = [span for span in spans if span["parentSpanId"] == process["spanId"]]
    names = [span["name"] for span in inner]
    assert {name: names.count(name) for name in APART} == {"open": 1, "each/check": 3, "each/price": 2, "sum": 1}
    assert len(spans) == len(inner) + 2
    assert sum("a house of ones" in span.get("status", {}).get("message", "") for span in inner) == 1
    for span in inner:
        times = [int(span[f"{end}TimeUnixNano"]) for end in ("start", "end")]
        assert times == sorted(times)
        assert int(process["startTimeUnixNano"]) <= times[0]
        assert times[1] <= int(process["endTimeUnixNano"])


def test_auto_measures_its_samples_and_keeps_one_way(server: RunningServer) -> None:
    assert nodes(server, "measured") in (nodes(server, "apart"), nodes(server, "whole"))
    server.logged("fuse: auto:", 2)
    assert "/s with 1 client" in server.log()
    assert "there are no samples to measure with, so it runs apart" in server.log()
    assert nodes(server, "unmeasured") == nodes(server, "apart")
    assert len(server.pids("unmeasured")) == 5  # two for `open`, and none of the other way is left


def test_types_are_known_of_fused_models_too(server: RunningServer) -> None:
    for name in WAYS:
        described = server.session.get(f"{server.inference}/v2/models/{name}").json()
        assert [output["name"] for output in described["outputs"]] == ["prices", "total", "left_out"], name


def test_a_killed_process_of_a_fused_graph_loses_no_request(server: RunningServer) -> None:
    flow = Flow()

    def one(number: int) -> None:
        given = order(houses(3, seed=number), nonce=number, slow=0.005)
        with flow.request():
            assert ask(server, "whole", given)["total"]["nonce"] == number

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(one, number) for number in range(120)]
        for _ in range(3):
            for pid in eventually(lambda: server.pids("whole")):
                flow.kill(pid)
        for each in asked:
            each.result()


def test_a_nodes_timeout_is_looked_at_when_its_run_has_ended(server: RunningServer) -> None:
    found = ask(server, "timed", order(houses(3), slow=0.6))
    assert found["prices"] == []
    assert found["left_out"] == [
        {"item": item, "message": "node each: it took longer than 0.3 s (timeout)"} for item in range(3)
    ]


def test_a_run_that_hangs_ends_by_the_response_timeout(server: RunningServer) -> None:
    pids = server.pids("timed")
    with ThreadPoolExecutor(4) as pool:
        for answer in pool.map(lambda _: server.predict("timed", json=order(houses(2), slow=60)), range(4)):
            assert answer.status_code == 504, answer.text
            assert answer.json()["message"] == "it took longer than 2 s (responseTimeout)"
    eventually(lambda: server.pids("timed") - pids)
    assert ask(server, "timed", order(houses(2)))["left_out"] == []


def test_a_sample_that_fails_is_told_when_it_is_registered(server: RunningServer) -> None:
    folder = shutil.copytree(Path(server.settings["model_store"]) / "measured", folder_of(server, "sampled"))
    (folder / "sample.json").write_text("{}")
    answer = server.manage("POST", "/models?url=sampled&initial_workers=1&synchronous=true")
    assert answer.status_code in (400, 500), answer.text
    assert "samples[0]: node open: " in answer.json()["message"]
    assert not server.manage("GET", "/models/sampled").ok


def folder_of(server: RunningServer, name: str) -> Path:
    return Path(server.settings["model_store"]) / name
