"""The `pdserver` command: start, stop, and what it says when it can't."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from pdserver import __version__
from tests.command import Command, cwd, servers
from tests.conftest import Serve, fit_file, pack_handler
from tests.running import PDSERVER, clean_environment, eventually, free_ports
from tests.without_paddle import without_paddle as without_paddle

pytestmark = pytest.mark.usefixtures("without_paddle")


def test_start_returns_when_the_server_is_ready_and_stop_when_it_is_gone(command: Command, store: Path) -> None:
    pack_handler(store, "chaos")
    started = command("--start")
    assert started.returncode == 0, started.stderr
    assert "Model server started." in started.stdout.splitlines()
    assert command.inference in started.stdout
    assert requests.post(f"{command.inference}/predictions/chaos", json={"nonce": 1}, timeout=60).json()["nonce"] == 1
    assert requests.get(f"{command.metrics}/metrics", timeout=60).ok
    assert len(servers(command)) >= 3, "the server, the nursery and a worker"
    again = command("--start")
    assert again.returncode == 1
    assert "already running" in again.stderr
    assert "--stop" in again.stderr
    assert requests.get(f"{command.inference}/ping", timeout=60).ok
    stopped = command("--stop")
    assert (stopped.returncode, stopped.stdout) == (0, "pdserver has stopped.\n")
    assert servers(command) == set()
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{command.inference}/ping", timeout=60)
    nothing = command("--stop")
    assert (nothing.returncode, "not running" in nothing.stdout) == (0, True)


@pytest.mark.catalogue("F13")
def test_it_starts_and_stops_without_standard_streams(command: Command, store: Path) -> None:
    pack_handler(store, "chaos")
    for arguments in ("--start", "--stop"):
        closed = ["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', PDSERVER, arguments]
        assert subprocess.run(closed, cwd=command.folder, env=clean_environment(), timeout=90).returncode == 0
        if arguments == "--start":
            asked = requests.post(f"{command.inference}/predictions/chaos", json={"nonce": 1}, timeout=60)
            assert asked.json()["nonce"] == 1
    assert servers(command) == set()


@pytest.mark.catalogue("F13")
@pytest.mark.parametrize("where", ["/dev/full", "a reader that has gone"])
def test_it_starts_and_stops_though_what_it_says_cannot_be_written(command: Command, where: str) -> None:
    if where == "/dev/full":
        output = os.open(where, os.O_WRONLY)
    else:
        reader, output = os.pipe()
        os.close(reader)
    try:
        for arguments in ("--start", "--stop"):
            done = subprocess.run(
                [PDSERVER, arguments], cwd=command.folder, env=clean_environment(), timeout=90, stdout=output
            )
            assert done.returncode == 0
    finally:
        os.close(output)


def test_one_whose_parent_never_asks_for_its_status_is_stopped_too(store: Path, serve: Serve) -> None:
    """As the first process of a container may not: what has ended is then listed for ever."""
    server = serve("", stop_timeout="1")
    stopped = subprocess.run(
        [PDSERVER, "--stop", "--pd-config", str(server.config)],
        cwd=server.folder, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (stopped.returncode, stopped.stdout) == (0, "pdserver has stopped.\n")


@pytest.mark.catalogue("F10")
def test_several_servers_live_side_by_side(command: Command, store: Path, tmp_path: Path) -> None:
    pack_handler(store, "chaos")
    (tmp_path / "there").mkdir()
    other = Command(tmp_path / "there", store)
    assert command("--start").returncode == 0
    try:
        assert other("--start").returncode == 0
        assert command("--stop").returncode == 0
        assert requests.get(f"{other.inference}/ping", timeout=60).ok
    finally:
        assert other("--stop").returncode == 0


@pytest.mark.catalogue("F11")
def test_a_port_in_use_is_named_with_its_key(command: Command) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        address = f"http://127.0.0.1:{sock.getsockname()[1]}"
        for how in ([], ["--foreground"]):
            failed = command("--start", f"--metrics-address={address}", *how)
            assert failed.returncode == 2
            assert f"metrics_address={address}: Address already in use" in failed.stderr
            assert "stop what uses it" in failed.stderr
    assert servers(command) == set()


def test_two_keys_with_one_port_are_both_named(command: Command) -> None:
    [port] = free_ports(1)
    metrics = f"http://127.0.0.1:{port}"
    failed = command("--start", f"--metrics-address={metrics}", f"--grpc-inference-port={port}")
    assert failed.returncode == 2
    assert failed.stderr == (
        f"pdserver: grpc_inference_address=localhost, grpc_inference_port={port}: Address already in use: "
        f"metrics_address={metrics} has the same port: choose another for one of them\n"
    )


def test_bad_settings_are_refused_with_their_places_and_the_fixes(command: Command) -> None:
    wrong = {
        "job_queue_sise=10": "did you mean job_queue_size?",
        "job_queue_size=many": "expected a whole number of requests",
        "model_store=/nowhere/at/all": "no such folder",
        "inference_address=unix:/tmp/socket": "unix is not served here",
    }
    keys = tuple(line.partition("=")[0] + "=" for line in wrong)
    kept = [line for line in command.config.read_text().splitlines() if not line.startswith(keys)]
    command.config.write_text("\n".join([*kept, *wrong]))
    failed = command("--start")
    assert (failed.returncode, failed.stdout) == (2, "")
    said = failed.stderr.splitlines()
    assert len(said) == len(wrong)
    for number, (line, words) in enumerate(wrong.items(), len(kept) + 1):
        [one] = [each for each in said if f"config.properties:{number}: {line.partition('=')[0]}" in each]
        assert words in one


def test_stop_does_not_say_that_nothing_runs_while_something_answers(command: Command, tmp_path: Path) -> None:
    host, _, port = command.management.removeprefix("http://").partition(":")
    with socket.create_server((host, int(port))):
        stopped = command("--stop", PD_STATE_LOCATION=str(tmp_path / "elsewhere"))
    assert (stopped.returncode, stopped.stdout) == (1, "")
    assert f"something answers at {command.management}" in stopped.stderr
    assert "for a cluster: pdserver cluster status" in stopped.stderr
    assert command("--stop").returncode == 0


def test_stop_says_which_servers_run_and_does_without_what_is_wrong_in_the_configuration_by_then(
    command: Command, store: Path, tmp_path: Path
) -> None:
    text = command.config.read_text()
    state = str(tmp_path / "state")
    command.config.write_text(f"{text}state_location={state}\n")
    assert command("--start").returncode == 0
    moved = f"http://127.0.0.1:{free_ports(1)[0]}"
    assert command("--stop", PD_MANAGEMENT_ADDRESS=moved).stdout == (
        f"pdserver is not running at {moved}.\n"
        f"One is running at {command.management.removeprefix('http://')}:"
        f" pdserver --stop --management-address {command.management}\n"
    )
    wrong = text.replace(str(store), "/nowhere") + "job_queue_sise=1\njob_queue_size=many\n"
    command.config.write_text(f"{wrong}state_location={state}\n")
    stopped = command("--stop", TS_LOAD_MODELS="=")
    assert (stopped.returncode, stopped.stdout, stopped.stderr) == (0, "pdserver has stopped.\n", "")
    assert servers(command) == set()
    command.config.write_text(text + "stop_timeout=soon\n")
    assert "stop_timeout" in command("--stop").stderr


def test_the_start_says_what_is_served_by_how_many_and_where_the_logs_are(command: Command, store: Path) -> None:
    pack_handler(store, "chaos", config="minWorkers: 2")
    pack_handler(store, "parts", config="minWorkers: 1")
    started = command("--start").stdout.splitlines()
    assert "model           chaos/1.0, 2 workers" in started
    assert "model           parts/1.0, 1 worker" in started
    assert f"logs            {command.folder / 'logs'}" in started
    assert not any("snapshot" in line for line in started)
    assert not any("of 2 models" in line for line in started), "progress is for terminals"
    assert command("--stop").returncode == 0
    command.config.write_text(command.config.read_text().replace("load_models=all\n", ""))
    again = command("--start").stdout.splitlines()
    assert "model           chaos/1.0, 2 workers" in again
    assert any(f"the last snapshot in {command.folder / 'logs' / 'config'}" in line for line in again)


def slow_start(command: Command, store: Path, **how: Any) -> subprocess.Popen[str]:
    """`pdserver --start`, with a model that loads when there is a file `go`; the server listens already."""
    pack_handler(store, "hard_to_load", "slow", config=f"loading: {{until: {command.folder}/go}}")
    starter = subprocess.Popen(
        [PDSERVER, "--start"], cwd=command.folder, env=clean_environment(), text=True, stderr=subprocess.PIPE, **how
    )
    eventually(lambda: (command.folder / "logs" / "pdserver.log").exists() and _registered(command))
    return starter


def _registered(command: Command) -> bool:
    return "registered slow" in (command.folder / "logs" / "pdserver.log").read_text()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_the_server_outlives_its_starter(command: Command, store: Path, number: signal.Signals) -> None:
    with slow_start(command, store, stdout=subprocess.PIPE) as starter:
        starter.send_signal(number)
        starter.communicate()
    (command.folder / "go").touch()
    eventually(lambda: requests.get(f"{command.inference}/ping", timeout=60).ok)
    assert requests.post(f"{command.inference}/predictions/slow", data="x", timeout=60).text == "x"
    assert command("--stop").stdout == "pdserver has stopped.\n"


def test_ctrl_c_during_the_start_ends_the_server(command: Command, store: Path) -> None:
    with slow_start(command, store, stdout=subprocess.PIPE) as starter:
        starter.send_signal(signal.SIGINT)
        _, errors = starter.communicate(timeout=60)
    assert (starter.returncode, errors) == (130, "pdserver: interrupted; the server has ended\n")
    assert servers(command) == set()


def test_on_a_terminal_the_start_shows_its_progress(command: Command, store: Path) -> None:
    terminal, side = os.openpty()
    with slow_start(command, store, stdout=side) as starter:
        os.close(side)
        assert os.read(terminal, 100).startswith(b"Starting")
        (command.folder / "go").touch()
        assert starter.wait(60) == 0
        assert b"1 of 1 models: slow" in os.read(terminal, 10_000)
    os.close(terminal)


@pytest.mark.parametrize(
    ("where", "words"), [("taken", "File exists"), ("taken/logs", "Not a directory"), ("/proc/logs", "No such file")]
)
def test_logs_that_cannot_be_written_are_one_line(command: Command, where: str, words: str) -> None:
    (command.folder / "taken").touch()
    failed = command("--start", "--log-location", where)
    where = str(command.folder / where)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.startswith(f"pdserver: log_location={where}: {words}")
    assert len(failed.stderr.splitlines()) == 1


def test_without_paddle_a_model_that_needs_it_says_so(command: Command, store: Path, fit_model: Path) -> None:
    pack_handler(store, "chaos")
    files: dict[str, Any] = {"serialized_file": fit_file(fit_model), "params_file": fit_model / "fit.pdiparams"}
    pack_handler(store, "base_handler", "fit", **files)
    started = command("--start")
    assert started.returncode == 1
    assert "is not served: Paddle is not installed: pip install 'pdserver[cpu]'" in started.stderr
    assert "chaos" not in started.stderr
    assert "Traceback" not in started.stderr
    assert re.findall("^model .*", started.stdout, re.MULTILINE) == ["model           chaos/1.0, 1 worker"]


def test_the_command_line_beats_the_environment_beats_the_file(command: Command, store: Path) -> None:
    """And models are called as the command line says."""
    pack_handler(store, "chaos")
    pack_handler(store, "parts")
    in_environment, in_flag, metrics = (f"http://127.0.0.1:{port}" for port in free_ports(3))
    given = ["--inference-address", in_flag, "--models", "a=chaos.pdar", "parts.pdar"]
    environment = {
        "PD_INFERENCE_ADDRESS": in_environment,
        "PD_METRICS_ADDRESS": metrics,
        "PD_LOAD_MODELS": "x=chaos.pdar",
    }
    assert command("--start", *given, **environment).returncode == 0
    assert requests.post(f"{in_flag}/predictions/a", json={"nonce": 1}, timeout=60).json()["nonce"] == 1
    assert requests.get(f"{metrics}/metrics", timeout=60).ok
    for address in (command.inference, in_environment, command.metrics):
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{address}/ping", timeout=60)
    models = requests.get(f"{command.management}/models", timeout=60).json()["models"]
    assert [model["modelName"] for model in models] == ["a", "parts"]


@pytest.mark.catalogue("F4")
def test_a_signal_a_second_after_the_first_ends_at_once(store: Path, serve: Serve, tmp_path: Path) -> None:
    pack_handler(store, "chaos")
    server = serve()
    body = f'{{"op": "wait_for", "begun": "{tmp_path}/begun", "go": "{tmp_path}/never"}}'
    with subprocess.Popen(
        ["curl", "-s", "-d", body, f"{server.inference}/predictions/chaos"], stdout=subprocess.DEVNULL
    ):
        eventually((tmp_path / "begun").exists)
        assert server.process is not None
        server.insist()


@pytest.mark.catalogue("F9")
def test_a_stale_pid_file_is_no_obstacle(command: Command, store: Path, tmp_path: Path) -> None:
    pack_handler(store, "chaos")
    assert command("--start").returncode == 0
    there = [each for each in psutil.process_iter(["cmdline"]) if f"{command.folder}" in cwd(each)]
    [pid] = [each.pid for each in there if "--ready-fd" in each.info["cmdline"]]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")
    assert "not running" in command("--stop").stdout
    assert command("--start").returncode == 0


def test_version(command: Command) -> None:
    assert command("--version").stdout == f"pdserver {__version__}\n"
