"""config.properties, the environment and the command line, from real files and dictionaries."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdserver.configuration.loading import load_config
from pdserver.configuration.models_to_load import ModelsToLoad, ModelToLoad
from pdserver.configuration.server import KEYS, Config
from pdserver.configuration.torchserve_keys import IGNORED_KEYS
from pdserver.configuration.values import Address
from pdserver.errors import ConfigError
from pdserver.formats.properties import Entry, PropertiesError, escaped, parse_properties
from pdserver.types import SequenceHeaders

ROOT = Path(__file__).parent.parent


# Properties syntax


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        (b"", []),
        (b"# a comment\n! another\n   # indented\n\n \t\f\n", []),
        (b"a=1\nb:2\nc 3\nd\t4", [(1, "a", "1"), (2, "b", "2"), (3, "c", "3"), (4, "d", "4")]),
        (b"a\nb=", [(1, "a", ""), (2, "b", "")]),
        (b"  a  =  1 2  ", [(1, "a", "1 2  ")]),
        (b"a = : b", [(1, "a", ": b")]),
        (b"a==b", [(1, "a", "=b")]),
        (b"a=1\r\nb=2\rc=3", [(1, "a", "1"), (2, "b", "2"), (3, "c", "3")]),
        (b"\xef\xbb\xbfa=1", [(1, "a", "1")]),
        (b"a=1,\\\n   2,\\\r\n\t3\nb=4", [(1, "a", "1,2,3"), (4, "b", "4")]),
        (b"a=1\\\n# not a comment", [(1, "a", "1# not a comment")]),
        (b"# no continuation \\\na=1", [(2, "a", "1")]),
        (b"a=1\\\\\nb=2", [(1, "a", "1\\"), (2, "b", "2")]),
        (b"a=1\\", [(1, "a", "1")]),
        (b"a=\\t\\n\\r\\f\\q\\\\\\=", [(1, "a", "\t\n\r\fq\\=")]),
        (b"a\\ b\\=c\\:d=1", [(1, "a b=c:d", "1")]),
        (b"\\#a=1", [(1, "#a", "1")]),
        (b"a=\\u00e9\\uD83D\\uDE00", [(1, "a", "é😀")]),
        ("ключ=значение".encode(), [(1, "ключ", "значение")]),
        (b"a=1\na=2", [(1, "a", "1"), (2, "a", "2")]),
    ],
)  # fmt: skip
def test_properties_are_read_as_java_reads_them(text: bytes, entries: list[tuple[int, str, str]]) -> None:
    assert [entry[:3] for entry in parse_properties(text)] == entries


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (b"a=1\nb=\xff", 2, "not UTF-8"),
        ("a=1".encode("utf-16"), 1, "not UTF-8"),
        (b"a=1\n\n=2", 3, "without a key"),
        (b"a=\\u12", 1, "four hexadecimal digits"),
        (b"a=1\nb=\\uD83D", 2, "come in pairs"),
    ],
)
def test_bad_properties_name_their_line(text: bytes, line: int, reason: str) -> None:
    with pytest.raises(PropertiesError, match=reason) as caught:
        parse_properties(text)
    assert caught.value.line == line


@given(st.binary(max_size=200) | st.text(alphabet="ab=:#!\\u0 \t\f\r\n", max_size=40).map(str.encode))
def test_any_bytes_give_entries_or_a_properties_error(data: bytes) -> None:
    try:
        entries = parse_properties(data)
    except PropertiesError as error:
        entries, lines = [], [error.line]
    else:
        lines = [entry.line for entry in entries]
    assert all(entry.key for entry in entries)
    assert lines == sorted(set(lines))
    assert set(lines) <= set(range(1, 2 + len(re.findall(rb"\r\n|\r|\n", data))))


def written(text: str) -> str:
    """`text` so that it is read back as it is, as a key or as a value."""
    return "".join(c if c.isalnum() else "".join(f"\\u{unit:04x}" for unit in utf16(c)) for c in text)


def utf16(character: str) -> list[int]:
    data = character.encode("utf-16-be")
    return [int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2)]


@given(
    st.lists(st.tuples(st.text(min_size=1), st.text())),
    st.sampled_from(["=", ":", " ", "\t", " = "]),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_what_is_written_is_read_back(pairs: list[tuple[str, str]], separator: str, newline: str) -> None:
    lines = [f"{written(key)}{separator}\\{newline}  {written(value)}" for key, value in pairs]
    assert parse_properties(newline.join(lines).encode()) == [
        Entry(1 + 2 * i, key, value, "=" in separator or ":" in separator) for i, (key, value) in enumerate(pairs)
    ]


@given(st.text() | st.text(alphabet="a\\=:# \t\f\r\n"))
def test_an_escaped_value_is_read_back_as_it_was(value: str) -> None:
    assert parse_properties(f"key={escaped(value)}\n".encode()) == [Entry(1, "key", value, True)]


# The configuration


@dataclass
class Place:
    """A working directory with a model store."""

    folder: Path

    def load(self, text: str | bytes = "", environ: Mapping[str, str] | None = None, **overrides: str) -> Config:
        file = self.folder / "server.properties"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return load_config({"model_store": "models"} | overrides, environ or {}, file.relative_to(self.folder))

    def problems(self, text: str | bytes = "", environ: Mapping[str, str] | None = None, **overrides: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            self.load(text, environ, **overrides)
        return str(caught.value).splitlines()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    return Place(tmp_path)


def test_every_key_has_its_type_and_unit(place: Place) -> None:
    config = place.load(
        r"""
        inference_address = http://0.0.0.0:9080
        management_address: http://[::1]:9081/
        metrics_address http://localhost:0
        load_models=digits.pdar, mine=diabetes.pdar
        models={\
          "digits": {\
            "1.0": {"minWorkers": 2, "maxWorkers": 4, "batchSize": 8, "maxBatchDelay": 5, "responseTimeout": 30}\
          }\
        }
        default_workers_per_model=3
        default_service_handler=handler.py:serve
        service_envelope=kserve
        model_key_file=my.key
        decode_input_request=false
        limit_max_image_pixels=false
        ts_header_key_sequence_id=X-Amzn-SageMaker-Session-Id
        install_py_dep_per_model=true
        install_py_dep_timeout=60
        venv_location=venvs
        blacklist_env_vars=.*SECRET
        job_queue_size=7
        default_response_timeout=1.5
        default_startup_timeout=300
        unregister_model_timeout=9
        stop_timeout=0
        max_request_size=1048576
        log_location=var/log
        access_log=false
        enable_model_api=FALSE
        enable_metrics_api=false
        """
    )
    assert config.inference_address == Address("0.0.0.0", 9080)
    assert config.management_address == Address("::1", 9081)
    assert str(config.management_address) == "http://[::1]:9081"
    assert config.metrics_address == Address("localhost", 0)
    assert config.model_store == Path("models").absolute()
    assert config.load_models == ModelsToLoad((ModelToLoad("digits.pdar"), ModelToLoad("diabetes.pdar", "mine")))
    assert config.models == {
        "digits": {
            "1.0": {
                "min_workers": 2,
                "max_workers": 4,
                "batch_size": 8,
                "max_batch_delay_seconds": 0.005,
                "response_timeout_seconds": 30.0,
            }
        }
    }
    assert config.unregister_model_timeout_seconds == 9
    assert config.stop_timeout_seconds == 0
    assert config.max_request_bytes == 1 << 20
    assert config.log_location == Path("var/log").absolute()
    assert (config.access_log, config.enable_model_api, config.enable_metrics_api) == (False, False, False)
    assert config.model_defaults == {
        "min_workers": 3,
        "queue_size": 7,
        "queue_bytes": 268_435_456,
        "response_timeout_seconds": 1.5,
        "startup_timeout_seconds": 300.0,
        "service_envelope": "kserve",
        "model_key_file": "my.key",
        "decode_input_request": False,
        "limit_max_image_pixels": False,
    }
    assert config.sequence_headers == SequenceHeaders(id="X-Amzn-SageMaker-Session-Id")
    assert config.default_service_handler == "handler.py:serve"
    assert (config.install_py_dep_per_model, config.install_py_dep_timeout_seconds) == (True, 60)
    assert config.venv_location == Path("venvs").absolute()
    assert config.blacklist_env_vars == re.compile(".*SECRET")
    assert (config.ignored_keys, config.warnings) == ((), ())


def test_without_any_source_the_defaults_hold(place: Place) -> None:
    config = load_config({"model_store": "models"}, {}, None)
    assert config == Config(model_store=Path("models").absolute())
    assert str(config.inference_address) == "http://localhost:8080"
    assert config.max_request_bytes == 64 * 1024 * 1024


def test_zero_workers_means_one_for_each_core(place: Place) -> None:
    assert place.load("default_workers_per_model=0").default_workers_per_model == len(os.sched_getaffinity(0))


def test_all_is_every_archive_however_it_is_spelled(place: Place) -> None:
    assert place.load("load_models=ALL").load_models == ModelsToLoad(all=True)


# Precedence


def test_every_key_has_a_flag_of_its_own() -> None:
    flags = {key.flag: name for name, key in KEYS.items()}
    assert len(flags) == len(KEYS)
    assert (flags["--models"], flags["--model-settings"]) == ("load_models", "models")


def test_the_command_line_goes_before_the_environment_before_the_file(place: Place) -> None:
    text = "job_queue_size=1\nstop_timeout=1\naccess_log=false\nlog_location=file"
    environ = {
        "PD_JOB_QUEUE_SIZE": "2",
        "TS_JOB_QUEUE_SIZE": "3",
        "TS_STOP_TIMEOUT": "3",
        "PD_LOG_LOCATION": "",
        "TS_LOG_LOCATION": "",
    }
    config = place.load(text, environ, job_queue_size="4")
    assert config.job_queue_size == 4
    assert place.load(text, environ).job_queue_size == 2
    assert config.stop_timeout_seconds == 3
    assert config.access_log is False
    assert config.log_location == Path("file").absolute(), "an empty variable counts as unset"


def test_a_value_that_is_overridden_is_not_checked(place: Place) -> None:
    config = place.load("job_queue_size=$$NOT_SET$$\nstop_timeout=soon", {"PD_STOP_TIMEOUT": "1"}, job_queue_size="5")
    assert (config.job_queue_size, config.stop_timeout_seconds) == (5, 1)


def test_a_model_repository_needs_no_model_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    found = load_config({"model_repository": f"{tmp_path / 'a'}, {tmp_path}"}, {}, None)
    assert (found.model_store, found.model_repository) == (None, (tmp_path / "a", tmp_path))
    with pytest.raises(ConfigError, match=r"^--model-repository=/.*: no such folder"):
        load_config({"model_repository": str(tmp_path / "gone")}, {}, None)


@pytest.mark.parametrize(
    ("names", "mode", "problem"),
    [
        ("a,*", "explicit", r"--load-model=a,\*: `\*` stands alone"),
        ("a/b", "explicit", "--load-model=a/b: model name 'a/b': must start with a letter or a digit"),
        ("a", "poll", "--load-model=a: this needs model_control_mode=explicit"),
    ],
)
def test_models_that_cannot_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: str, mode: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"model_repository": str(tmp_path), "load_model": names, "model_control_mode": mode}
    with pytest.raises(ConfigError, match="^" + problem):
        load_config(given, {}, None)
    assert load_config({**given, "load_model": "*", "model_control_mode": "explicit"}, {}, None).load_model == ("*",)


def test_the_file_is_chosen_in_one_order(place: Place) -> None:
    for number, name in enumerate(("flag", "pd", "ts", "config"), start=1):
        (place.folder / f"{name}.properties").write_text(f"model_store=models\njob_queue_size={number}")
    environ = {"PD_CONFIG_FILE": "pd.properties", "TS_CONFIG_FILE": "ts.properties"}
    assert load_config({}, environ, Path("flag.properties")).job_queue_size == 1
    assert load_config({}, environ, None).job_queue_size == 2
    assert load_config({}, environ | {"PD_CONFIG_FILE": ""}, None).job_queue_size == 3
    found = load_config({}, {}, None)
    assert (found.job_queue_size, found.config_file) == (4, Path("config.properties"))


def test_variables_are_filled_in(place: Place) -> None:
    config = place.load("log_location=$$BASE$$/$$BASE$$/$x$$", {"BASE": "a b"})
    assert config.log_location == Path("a b/a b/$x$$").absolute()


# Problems: each names its source, its key, its value and the fix


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("job_queue_size=10S", "job_queue_size=10S: expected a whole number of requests from 1 to 1000000"),
        ("job_queue_size=", "job_queue_size=: expected a whole number"),
        ("job_queue_size=-5", "job_queue_size=-5: expected a whole number of requests from 1"),
        ("job_queue_size=1_0", "job_queue_size=1_0: expected a whole number"),
        ("job_queue_size=\\u0661", "job_queue_size=\u0661: expected a whole number"),
        ("job_queue_size=" + "9" * 5000, "…: expected a whole number"),
        ("job_queue_size=1.5", "job_queue_size=1.5: expected a whole number"),
        ("job_queue_size=1\\n2", "job_queue_size=1\\n2: expected a whole number"),
        ("default_response_timeout=0", "expected a number of seconds from 0.001 to 31536000"),
        ("default_response_timeout=nan", "expected a number of seconds"),
        ("default_response_timeout=2m", "default_response_timeout=2m: expected a number of seconds"),
        ("max_request_size=64MB", "max_request_size=64MB: expected a whole number of bytes"),
        ("access_log=yes", "access_log=yes: expected true or false"),
        ("inference_address=127.0.0.1:8080", "expected http://host:port"),
        ("inference_address=http://127.0.0.1", "expected http://host:port"),
        ("inference_address=http://127.0.0.1:99999", "a port from 0 to 65535"),
        ("inference_address=http://::1:8080", "expected http://host:port"),
        ("inference_address=http://[::1:8080", "expected http://host:port"),
        ("inference_address=http://[::g]:8080", "expected http://host:port"),
        ("inference_address=http://a b:8080", "a host name or an IP address"),
        ("inference_address=http://user@host:8080", "a host name or an IP address"),
        ("inference_address=http://host:8080/path", "expected http://host:port"),
        ("worker_limits=nofile=many", "expected such as nofile=4096, and of as, core"),
        ("worker_limits=nofiles=1", "not nofiles=1"),
        ("allowed_hosts=a,b:80", "expected host names without a port, *.example.com or *, not b:80"),
        ("cors_allowed_origin=example.com", "expected * or one origin, such as https://example.com"),
        ("cors_allowed_headers=a\\nb", "expected names, separated by commas"),
        ("token_expiration_min=0", "expected a whole number of minutes from 1"),
        ("inference_address=unix:/tmp/socket", "unix is not served here: write http://host:port"),
        ("load_models=all,digits.pdar", "`all` stands alone"),
        ("load_models==digits.pdar", "expected archive.pdar or name=archive.pdar, not =digits.pdar"),
        ("models={", 'expected JSON such as {"digits"'),
        ("models=[]", 'expected JSON such as {"digits"'),
        ("models=" + "[" * 100_000, 'expected JSON such as {"digits"'),
        ('models={"a": 1}', "a needs versions"),
        ('models={"a": {"1.0": 1}}', "a 1.0 needs settings"),
        ('models={"a": {"1.0": {}, "1.0": {}}}', 'key "1.0" is given twice'),
        ('models={"a": {"1.0": {"batchsize": 1}}}', "a 1.0: unknown key batchsize; did you mean batchSize?"),
        ('models={"a": {"1.0": {"batchSize": "4"}}}', "a 1.0: batchSize=4: expected a whole number of requests"),
        ("mangement_address=http://[::1]:1", "mangement_address: unknown key; did you mean management_address?"),
        ("keystore_pass=secret", "keystore_pass: not known here: openssl pkcs12 -in KEYSTORE"),
        ("log_location=$$NOT_SET$$", "log_location=$$NOT_SET$$: the environment variable NOT_SET is not set"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named_with_its_fix(place: Place, line: str, problem: str) -> None:
    [told] = place.problems(f"# first\r\n{line}\r\n")
    assert told.startswith(f"server.properties:2: {line.partition('=')[0]}")
    assert problem in told
    assert "secret" not in told
    assert len(told) < 300


def test_all_problems_are_told_at_once_each_on_its_line(place: Place) -> None:
    told = place.problems(
        "stop_timeout=1\njob_queue_size=0\nacess_log=true\nstop_timeout=2\n",
        {"PD_ACCESS_LOG": "maybe", "TS_LOG_LOCATION": "\0"},
        inference_address="here",
        load_models="=",
    )
    assert sorted(told) == [
        "--inference-address=here: expected http://host:port",
        "--models==: expected archive.pdar or name=archive.pdar, not =",
        "environment variable PD_ACCESS_LOG=maybe: expected true or false",
        "environment variable TS_LOG_LOCATION=\\x00: expected a folder",
        "server.properties:2: job_queue_size=0: expected a whole number of requests from 1 to 1000000",
        "server.properties:3: acess_log: unknown key; did you mean access_log?",
        "server.properties:4: stop_timeout: given twice, first on line 1: keep one",
    ]


def test_the_model_store_must_be_named_and_exist(place: Place) -> None:
    with pytest.raises(ConfigError, match="model_store is not set: use --model-store FOLDER"):
        load_config({}, {}, None)
    assert place.problems(model_store="gone") == [
        "--model-store=gone: no such folder: create it (mkdir -p gone) or name the right one"
    ]
    (place.folder / "file").write_text("")
    assert "not a folder" in place.problems(model_store="file")[0]


def test_the_file_must_be_a_file(place: Place) -> None:
    with pytest.raises(ConfigError, match=r"^--pd-config=gone\.properties: no such file"):
        load_config({}, {}, Path("gone.properties"))
    with pytest.raises(ConfigError, match=r"^environment variable TS_CONFIG_FILE=models: a folder, not a file"):
        load_config({}, {"TS_CONFIG_FILE": "models"}, None)


def test_a_file_that_is_not_utf8_or_not_properties_names_its_line(place: Place) -> None:
    assert place.problems("stop_timeout=1\n# caf\xe9".encode("latin-1")) == [
        "server.properties:2: byte 20 is not UTF-8: save the file as UTF-8"
    ]
    assert place.problems("this is no property") == [
        "server.properties:1: this: unknown key: expected key=value, or # before a comment"
    ]
    assert place.problems("=1") == ["server.properties:1: a value without a key: write key=value"]


# What is told without stopping


def test_torchserves_own_keys_are_ignored_with_one_warning(place: Place) -> None:
    config = place.load(
        "number_of_netty_threads=32\njob_queue_size=10\nvmargs=-Xmx4g\n"
        'models={"noop": {"1.0": {"defaultVersion": true, "marName": "noop.mar", "minWorkers": 1}}}'
    )
    assert config.ignored_keys == (
        "number_of_netty_threads",
        "vmargs",
        "models.noop.1.0.defaultVersion",
        "models.noop.1.0.marName",
    )
    [warning] = config.warnings
    assert all(key in warning for key in config.ignored_keys)
    assert config.models == {"noop": {"1.0": {"min_workers": 1}}}


def test_a_misspelt_variable_is_warned_of_and_a_strange_one_is_not(place: Place) -> None:
    config = place.load(environ={"PD_JOB_QUEUE_SIZ": "5", "PD_TOKEN": "x", "TS_JOB_QUEUE_SIZ": "5"})
    assert config.warnings == (
        "environment variable PD_JOB_QUEUE_SIZ: not a key; did you mean PD_JOB_QUEUE_SIZE?",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("headers", "warned"),
    [(None, False), ("*", False), ("X-Own, Content-Type", False), ("X-Own", True), ("", True)],
)
def test_a_page_that_is_let_in_may_send_json_or_a_warning_says_that_it_may_not(
    place: Place, headers: str | None, warned: bool
) -> None:
    lines = "" if headers is None else f"cors_allowed_headers={headers}\n"
    config = place.load(lines + "cors_allowed_origin=https://app.example.com")
    assert ("content-type" in config.cors_allowed_headers) == (headers is None)
    assert any("cors_allowed_headers lacks content-type" in line for line in config.warnings) == warned
    assert place.load(lines).warnings == ()


# The documentation says what the table says


def test_config_properties_has_every_key_with_its_default(tmp_path: Path) -> None:
    entries = {entry.key: entry.value for entry in parse_properties((ROOT / "config.properties").read_bytes())}
    assert entries == {name: "model_store" if key.default is None else key.default for name, key in KEYS.items()}
    loaded = load_config({"model_store": str(tmp_path)}, {}, ROOT / "config.properties")
    assert loaded == Config(model_store=tmp_path, config_file=ROOT / "config.properties")


def test_the_documentation_has_every_key_with_its_default() -> None:
    document = (ROOT / "docs" / "configuration.md").read_text()
    for key in KEYS.values():
        default = "must be set" if key.default is None else f"`{key.default}`" if key.default else "none"
        assert f"| `{key.name}` | {default} | {key.help} |\n" in document
    assert set(re.findall(r"^\| `([a-z_]+)` \|", document, re.MULTILINE)) == KEYS.keys()
    assert (
        set(re.findall(r"`(\w+)`", document.partition("have no meaning here (")[2].partition(")")[0])) == IGNORED_KEYS
    )


def test_where_the_working_directory_is_gone_paths_are_absolute_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ConfigError, match="logs: a relative path, and the working directory is gone"):
        load_config({"model_store": str(tmp_path)}, {})
    config = load_config({"model_store": str(tmp_path), "log_location": str(tmp_path / "logs")}, {})
    assert config.log_location == tmp_path / "logs"
