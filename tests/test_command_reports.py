"""What `pdserver` says without serving: the state of a server, the configuration, and how the command is used."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import requests

from pdserver import cli
from pdserver.configuration import arguments
from pdserver.configuration.loading import load_config
from pdserver.configuration.server import KEYS, Config
from pdserver.server.reports import printed
from tests.command import Command, servers
from tests.conftest import pack_handler
from tests.without_paddle import without_paddle as without_paddle

pytestmark = pytest.mark.usefixtures("without_paddle")


def test_status_says_what_runs_and_serves_and_its_exit_status_whether_all_is_well(
    command: Command, store: Path
) -> None:
    pack_handler(store, "chaos", config="minWorkers: 2")
    stopped = command("--status")
    assert (stopped.returncode, stopped.stdout.splitlines()[0]) == (
        3,
        f"pdserver is not running at {command.management}.",
    )
    assert json.loads(command("--status", "--json").stdout)["running"] is False
    started = command("--start", PD_ADMIN_TOKEN="a" * 43)
    assert started.returncode == 0, started.stderr
    said = command("--status")
    assert (said.returncode, said.stderr) == (0, "")
    running, *lines = said.stdout.splitlines()
    assert running.startswith("running         pid ")
    assert int(running.split()[-1]) in servers(command)
    assert lines == [line for line in started.stdout.splitlines() if line != "Model server started."]
    report = json.loads(command("--status", "--json").stdout)
    assert (report["running"], report["models"], report["problems"]) == (True, {"chaos/1.0": 2}, {})
    assert report["addresses"]["management"] == command.management
    assert f"pid {report['pid']}" in running
    command.config.write_text(command.config.read_text() + "job_queue_sise=1\n")
    assert command("--status").returncode == 0, "it needs no token, nor a sound configuration"


def test_a_model_that_is_not_served_is_said_at_the_start_and_by_status(command: Command, store: Path) -> None:
    pack_handler(store, "chaos")
    pack_handler(store, "broken_load")
    started = command("--start")
    assert started.returncode == 1
    assert "Model server started." in started.stdout
    assert "broken_load" in started.stderr
    assert "the vocabulary is missing" in started.stderr
    assert requests.post(f"{command.inference}/predictions/chaos", json={"nonce": 1}, timeout=60).json()["nonce"] == 1
    said = command("--status")
    assert said.returncode == 1
    assert said.stderr.startswith("pdserver: broken_load/1.0: ")
    assert json.loads(command("--status", "--json").stdout)["problems"].keys() == {"broken_load/1.0"}


def test_check_config_says_ok_or_each_error_with_its_place(command: Command, store: Path) -> None:
    pack_handler(store, "chaos", config="maxWorkers: 1")
    text = command.config.read_text()
    checked = command("--check-config")
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "ok\n", "")
    assert not (command.folder / "logs").exists(), "nothing was started"

    command.config.write_text(f"{text}job_queue_sise=1\nidle_timeout=soon\n")
    checked = command("--check-config")
    assert (checked.returncode, checked.stdout) == (2, "")
    lines = text.count("\n")
    place = "pdserver: config.properties"
    assert [line[:60].split(": ")[:3] for line in checked.stderr.splitlines()] == [
        ["pdserver", f"config.properties:{lines + 1}", "job_queue_sise"],
        ["pdserver", f"config.properties:{lines + 2}", "idle_timeout=soon"],
    ]

    (store / "broken.pdar").write_bytes(b"PK\x03\x04 not really")
    (command.folder / "metrics.yaml").write_text("odd: 1\n")
    command.config.write_text(
        text.replace("load_models=all", "load_models=chaos.pdar,chaoss.pdar,broken.pdar")
        + 'models={"chaos": {"1.0": {"minWorkers": 3}}}\nmetrics_config=metrics.yaml\ncertificate_file=metrics.yaml\n'
    )
    checked = command("--check-config")
    assert checked.returncode == 2
    certificate, metrics, settings, missing, broken = checked.stderr.splitlines()
    assert "certificate_file and private_key_file belong together" in certificate
    assert "unknown section odd" in metrics
    assert settings.startswith(f"{place}:5: load_models: model chaos version 1.0: minWorkers=3")
    assert missing.endswith("load_models: chaoss.pdar: not in the model store; did you mean chaos.pdar?")
    assert broken.startswith(f"{place}:5: load_models: broken.pdar: ")


def test_check_config_leaves_the_log_of_a_running_server_alone(command: Command) -> None:
    own, file = command.folder / "own.log", command.folder / "logs.yaml"
    own.write_text("what was logged\n")
    handler = "{class: logging.FileHandler, filename: own.log, mode: w}"
    file.write_text(f"handlers: {{file: {handler}}}\nroot: {{handlers: [file]}}\n")
    command.config.write_text(command.config.read_text() + "log_config=logs.yaml\nstate_location=state\n")
    checked = command("--check-config")
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "ok\n", "")
    assert own.read_text() == "what was logged\n"
    assert not (command.folder / "state").exists()
    file.write_text(file.read_text().replace("FileHandler", "FileHandle"))
    assert "FileHandle" in command("--check-config").stderr


def test_check_config_looks_at_the_repository(command: Command, tmp_path: Path) -> None:
    (tmp_path / "models" / "m" / "1").mkdir(parents=True)
    (tmp_path / "models" / "m" / "config.pbtxt").write_text("nonsense")
    checked = command("--check-config", f"--model-repository={tmp_path}/models")
    assert checked.returncode == 2
    assert "model_repository: m: " in checked.stderr


def test_print_config_is_a_configuration_that_says_where_each_value_comes_from(command: Command) -> None:
    said = command("--print-config", "--idle-timeout=90", PD_SERVER_ID="  a\\b")
    assert said.returncode == 0
    lines = said.stdout.splitlines()
    assert lines[lines.index("idle_timeout=90") - 1] == "# --idle-timeout"
    assert lines[lines.index("server_id=\\  a\\\\b") - 1] == "# environment variable PD_SERVER_ID"
    assert lines[lines.index(f"management_address={command.management}") - 1] == "# config.properties:2"
    assert lines.index("access_log=true") > lines.index("# default")
    (command.folder / "printed.properties").write_text(said.stdout)
    again = command("--print-config", "--pd-config", "printed.properties")
    assert values(again.stdout) == values(said.stdout)
    assert values(said.stdout).keys() == KEYS.keys()


def values(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if not line.startswith("#"))


def test_every_printed_default_is_read_back(tmp_path: Path) -> None:
    plain = load_config({"model_store": str(tmp_path)}, {}, None)
    (tmp_path / "all.properties").write_text("\n".join(printed(plain)))
    again = load_config({}, {}, tmp_path / "all.properties")
    assert {key: getattr(again, key) for key in vars(plain) if key not in ("given", "config_file", "warnings")} == {
        key: value for key, value in vars(plain).items() if key not in ("given", "config_file", "warnings")
    }


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--strat"], "--strat: unknown flag, did you mean --start?"),
        (["--start", "--model_store", "x"], "--model_store: unknown flag, did you mean --model-store?"),
        (["--idle-timeout"], "argument --idle-timeout: expected one argument"),
        (["--start", "--stop"], "argument --stop: not allowed with argument --start"),
        (["start"], "start: not expected here"),
    ],
)
def test_wrong_use_is_answered_in_a_few_lines(given: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(given)
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    first, *usage, last = said.err.splitlines()
    assert words in first
    assert len(usage) == 2
    assert last == "pdserver --help says more"


@pytest.mark.skipif("FRONT_ENDS" in os.environ, reason="that configures the server")
def test_pdserver_alone_says_what_to_do_where_nothing_is_configured(command: Command) -> None:
    command.config.unlink()
    said = command()
    assert said.returncode == 2
    assert "usage: pdserver --start --model-store FOLDER" in said.stderr
    assert "curl http://127.0.0.1:8080/predictions" in said.stderr
    assert servers(command) == set()


def test_help_says_of_each_flag_what_its_value_is(command: Command) -> None:
    said = " ".join(command("--help").stdout.split())
    for shown in (
        "--idle-timeout SECONDS", "--max-request-size BYTES", "--access-log [true|false]", "--log-format text|json",
        "--inference-address http://HOST:PORT", "--model-store FOLDER", "--job-queue-size REQUESTS",
        "--model-settings JSON", "--models ARCHIVE", "--certificate-file FILE", "exit status: 0 done",
        "--start", "--stop", "--foreground", "--pd-config", "curl",
    ):  # fmt: skip
        assert shown in said
    assert arguments.EXAMPLE.split("\n")[1].strip() in said


def test_ctrl_c_before_there_is_a_server_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> Config:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load_config", interrupted)
    assert cli.main(["--start"]) == 130
    assert capfd.readouterr().err == "pdserver: interrupted\n"
