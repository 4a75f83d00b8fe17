"""The comparisons' own machinery: what they measure with must be right before anybody believes them."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import math
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
import uvicorn

from bench import report, results, rpc, svg, tables
from bench.bare import start_echo
from bench.engine_models import MODELS
from bench.load import Target, ask, closed_loop
from bench.open_loop import open_loop
from bench.peers.base import Configuration, WrongAnswer
from bench.peers.floor import Floor
from bench.peers.ours import Ours
from bench.results import Machine, Measurement, ScenarioResults
from bench.scenarios.engines import Engines
from bench.scenarios.fit import Fit
from bench.scenarios.profile import STAGES, divide
from bench.ways import OIP_GRPC, PREDICTIONS
from bench.workloads import prepare
from tests.running import eventually, lives

ROOT = Path(__file__).parent.parent
MACHINE = Machine("a cpu", 2, 4.0, "6.1", "3.11")


def cell(server: str, rate: float, *, configuration: str = "", case: str = "c=1", failure: str = "") -> Measurement:
    values = {"requests_per_second": rate, "p50_ms": 1000 / rate}
    return Measurement(server=server, configuration=configuration, case=case, round=1, values=values, failure=failure)


def measured(*cells: Measurement) -> ScenarioResults:
    return ScenarioResults(
        date="2026-01-01",
        command="make bench",
        rounds=3,
        seconds=1,
        machine=MACHINE,
        versions={"pdserver": "1"},
        measurements=list(cells),
    )


@contextmanager
def answering(answer: Callable[[], bytes]) -> Iterator[str]:
    """The URL of a server that calls `answer` for each request and writes what it gives back."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while head := self.rfile.readline():
                length = 0
                while head.strip():
                    name, _, value = head.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                    head = self.rfile.readline()
                self.rfile.read(length)
                self.wfile.write(answer())

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


def response(status: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok".encode()


@pytest.fixture
def body(tmp_path: Path) -> Path:
    path = tmp_path / "body"
    path.write_bytes(b"hello")
    return path


# Load


def test_an_open_loop_charges_a_stall_to_all_who_were_due(body: Path) -> None:
    """A server that answers nobody before the last one asked: the first waited for all the others' arrivals."""
    count, rate = 20, 100
    everybody = threading.Barrier(count)

    def answer() -> bytes:
        everybody.wait(60)
        return response("200 OK")

    with answering(answer) as url:
        done = open_loop(Target(url, body, "text/plain"), rate, count / rate)
    assert (done.requests, done.failures) == (count, 0)
    assert done.max_ms >= (count - 1) / rate * 1000
    assert done.p50_ms >= (count / 2 - 1) / rate * 1000


def test_an_open_loop_counts_refusals_and_broken_connections(body: Path) -> None:
    with answering(lambda: response("503 Service Unavailable")) as url:
        assert open_loop(Target(url, body, "text/plain"), 100, 0.1).failures == 10
    with answering(lambda: b"nonsense\r\n\r\n") as url:
        assert open_loop(Target(url, body, "text/plain"), 100, 0.1).failures == 10


@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed")
def test_a_closed_loop_counts_answers_and_refusals(body: Path) -> None:
    with answering(lambda: response("200 OK")) as url:
        done = closed_loop(Target(url, body, "text/plain"), 2, 1)
    assert done.requests > 0
    assert done.failures == 0
    assert done.requests_per_second == pytest.approx(done.requests, rel=0.5)
    with answering(lambda: response("503 Service Unavailable")) as url:
        done = closed_loop(Target(url, body, "text/plain"), 2, 1)
    assert done.failures == done.requests > 0


H2LOAD = """\
finished in 2.00s, 5.00 req/s, 1.2KB/s
requests: 12 total, 12 started, 10 done, 10 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 10 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 1.1KB (1126) total, 600B (600) headers (space savings 60.00%), {}B ({}) data
"""


@pytest.mark.parametrize(("data", "failures"), [(200, 0), (160, 2), (0, 10)])
def test_calls_without_an_answers_bytes_are_failures(data: int, failures: int) -> None:
    done = rpc.parse(H2LOAD.format(data, data), [1000] * 5 + [3000] * 5, 20, 2)
    assert (done.requests, done.requests_per_second, done.failures) == (10, 5, failures)
    assert (done.p50_ms, done.p99_ms) == (2, 3)
    with pytest.raises(RuntimeError, match="nonsense"):
        rpc.parse("nonsense", [], 20, 2)


def test_asking_says_what_the_server_said(body: Path) -> None:
    with (
        answering(lambda: response("503 Service Unavailable")) as url,
        pytest.raises(OSError, match="status 503: b'ok'"),
    ):
        ask(Target(url, body, "text/plain"))


# Servers


def test_ours_starts_answers_rightly_scales_and_ends(tmp_path: Path) -> None:
    workload = prepare("fit")
    with Ours().start(workload, Configuration(batch_size=32), tmp_path) as server:
        family = server.processes.all()
        before = server.batches()
        server.check()
        after = server.batches()
        assert before
        assert after
        assert after.requests == before.requests + 1
        assert len(server.ways) == 14
        for way in server.ways:
            server.by(way).check()
        wrong = dataclasses.replace(server.by(OIP_GRPC), is_right=server.ways[PREDICTIONS].is_right)
        with pytest.raises((WrongAnswer, ValueError)):
            wrong.check()
        server.scale("fit", 2)
        family += server.processes.all()
    assert len(family) > 2
    eventually(lambda: not any(map(lives, family)))


def test_the_floor_answers_rightly(tmp_path: Path) -> None:
    with Floor().start(prepare("fit"), Configuration(batch_size=32), tmp_path) as server:
        assert closed_loop(server.target, 8, 0.5).failures == 0
        server.check()


def test_a_wrong_answer_is_not_taken_for_a_right_one() -> None:
    workload = prepare("fit")
    right = (workload.folder / "answer").read_bytes()
    assert workload.is_right(right)
    for wrong in (b"", b"{}", b"[1]", right.replace(b".", b".9"), b'{"fetch_name_0": [[1]]}', b'{"code": 500}'):
        assert not workload.is_right(wrong)


def test_the_echo_gives_the_body_back(tmp_path: Path) -> None:
    with start_echo(prepare("fit"), tmp_path) as server:
        server.check()


# Results and report


def test_medians_leave_out_what_failed() -> None:
    found = measured(cell("pdserver", 10), cell("pdserver", 30), cell("pdserver", 20), cell("pdserver", 1, failure="x"))
    assert found.median("requests_per_second", "c=1", "pdserver") == 20
    assert found.median("requests_per_second", "c=2", "pdserver") is None


def test_each_peer_counts_with_its_best_configuration() -> None:
    found = measured(cell("mosec", 10, configuration="batch 1"), cell("mosec", 40, configuration="batch 32"))
    assert found.best("requests_per_second", "c=1", "mosec") == (40, "batch 32")
    assert found.best("p50_ms", "c=1", "mosec", min) == (25, "batch 32")
    assert tables.best_peer(found, "requests_per_second", "c=1") == 40


def test_the_floor_is_no_peer() -> None:
    found = measured(cell("pdserver", 40), cell("floor", 50), cell("mosec", 20))
    targets = {target.text: target.reached for target in Fit().targets(found) if target.case == "c=1"}
    assert targets["requests/s, to the best peer"] == 2.0
    assert targets["requests/s, to the floor"] == 0.8


def test_targets_are_ratios_of_medians() -> None:
    found = measured(cell("pdserver", 100), cell("mosec", 50), cell("TorchServe", 10))
    targets = {target.text: target for target in Fit().targets(found) if target.case == "c=1"}
    best = targets["requests/s, to the best peer"]
    assert (best.reached, best.is_met) == (2.0, True)
    fastest = targets["p50, to TorchServe's best"]
    assert fastest.reached == pytest.approx(0.1)
    assert fastest.is_met
    missing = next(target for target in Fit().targets(found) if target.case == "c=8")
    assert (missing.reached, missing.is_met) == (None, False)
    assert "not measured" in tables.targets_table([missing])


def test_an_engine_that_is_slower_than_paddle_for_a_batch_is_not_the_best() -> None:
    model = MODELS[0]
    times = {"paddle": (6.0, 24.0), "onnxruntime": (3.0, 16.0), "openvino": (1.0, 30.0), "auto": (3.0, 20.0)}
    found = measured(
        *(
            Measurement(server=name, case=f"{model.title}, batch {size}", round=1, values={"ms": milliseconds})
            for name, both in times.items()
            for size, milliseconds in zip(model.batch_sizes, both, strict=True)
        )
    )
    targets = Engines().targets(found)
    best = next(target for target in targets if target.case == model.title)
    assert best.reached == pytest.approx(math.sqrt(16 / 20))
    least = next(target for target in targets if target.text.endswith("the least"))
    assert least.reached == pytest.approx(24 / 20)
    mean = next(target for target in targets if target.text.endswith("geometric mean"))
    assert mean.reached is None, "the other models were not measured"
    assert f"| {model.title}, batch 1 | 6.00 | 3.00 | 1.00 | 3.00 (–) | 2.00 × |" in Engines().report(found)


def test_the_report_replaces_its_part_of_the_page_only(tmp_path: Path) -> None:
    page = tmp_path / report.PAGE
    page.write_text("# Speed\n\nWords.\n\n<!-- bench:fit begin -->\nold\n<!-- bench:fit end -->\n\nMore words.\n")
    found = measured(cell("pdserver", 100), cell("mosec", 50, failure="3 requests failed"))
    report.update(tmp_path, Fit(), found)
    text = page.read_text()
    assert "old" not in text
    assert text.startswith("# Speed\n\nWords.\n")
    assert text.endswith("\nMore words.\n")
    assert "| pdserver | 100/s, 10.0 ms<br> |" in text
    assert "3 requests failed" in text
    report.update(tmp_path, Fit(), found)
    assert page.read_text() == text
    assert results.read(tmp_path / report.DATA) == {"fit": found}
    ElementTree.parse(tmp_path / "performance-fit.svg")


def test_the_report_goes_to_the_pages_that_have_a_place_for_it(tmp_path: Path) -> None:
    page, other = tmp_path / "other.md", tmp_path / report.PAGE
    page.write_text("# Other\n\n<!-- bench:fit begin -->\n<!-- bench:fit end -->\n")
    other.write_text("# Speed\n")
    report.update(tmp_path, Fit(), msgspec.structs.replace(measured(cell("pdserver", 100)), seconds=0))
    assert "| pdserver | 100/s" in page.read_text()
    assert "`make bench`: simulated. 2 cores" in page.read_text()
    assert other.read_text() == "# Speed\n"


def test_a_scenario_without_a_place_on_the_page_gets_one() -> None:
    page = report.insert("# Speed\n", "new", "text\n")
    assert page == "# Speed\n\n## new\n\n<!-- bench:new begin -->\ntext\n<!-- bench:new end -->\n"


def test_plots_are_xml_whatever_the_names() -> None:
    plot = svg.bars("a < b & c", "/s", {"c=1": [("<one>", 3.0), ("two", 0.0)], "empty": []})
    texts = [element.text for element in ElementTree.fromstring(plot).iter() if element.text]
    assert "<one>" in texts


def test_the_machine_has_no_name() -> None:
    import socket

    found = results.this_machine()
    assert found.cores > 0
    assert socket.gethostname() not in (found.cpu, found.kernel)


# Profile


def test_a_profile_divides_each_threads_time() -> None:
    loop = (
        "thread (7): MainThread;main (pdserver/cli.py:1);run (uvloop/__init__.py:9);Runner.run (asyncio/runners.py:1)"
    )
    stacks = [
        f"{loop} 60",
        f"{loop};HttpCall._write (pdserver/http/call.py:5) 30",
        f"{loop};Pool._settle (pdserver/engine/pool.py:3);Histogram.observe (pdserver/metrics/counters.py:5) 10",
        "thread (8): logs;write (pdserver/logs/setup.py:1) 99",
    ]
    # Half of ten seconds the main thread had nothing to do: 50 of the loop's 60 samples were that.
    found = divide(stacks, {7: 5.0, 8: 2.0, 9: 0.0}, 7, 10.0)
    assert found == {
        "event loop: waiting for sockets, reading them": pytest.approx(1.0),
        "write the answer to the client": pytest.approx(3.0),
        "metrics": pytest.approx(1.0),
        "thread logs": 2.0,
    }


def test_the_profile_knows_the_code() -> None:
    """Each part of a frame that it looks for is one of a function that there is."""
    frames = [
        frame
        for root, package in ((ROOT, "pdserver"), (Path(uvicorn.__file__).parents[1], "uvicorn"))
        for path in (root / package).rglob("*.py")
        for frame in functions(ast.parse(path.read_text()), str(path.relative_to(root)))
    ]
    for part in itertools.chain.from_iterable(STAGES.values()):
        assert any(part in frame for frame in frames), part


def functions(tree: ast.AST, path: str, within: str = "") -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{within}{node.name} ({path}:{node.lineno})"
            yield from functions(node, path, f"{within}{node.name}.")
        else:
            yield from functions(node, path, within)


def test_make_passes_the_scenario_on() -> None:
    command = [
        "make",
        "--no-print-directory",
        "-n",
        "-o",
        ".venv/.installed",
        "bench",
        "SCENARIO=fit",
        "ROUNDS=2",
        "SECONDS=1",
    ]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.split()[1:] == ["-m", "bench", "fit", "--rounds", "2", "--seconds", "1"]
