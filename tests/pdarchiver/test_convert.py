"""Paddle models become Paddle Serving's folders, which Serving's own clients can read and pdserver can serve."""

from __future__ import annotations

import functools
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from pdarchiver import InvalidModel, PackingError, PackOptions, convert, encryption, inspect, messages, pack
from pdarchiver.convert import ConvertOptions, show
from pdserver.convert import inference_model_to_serving
from tests.conftest import Lent
from tests.running import BIN

BOTH = pytest.mark.parametrize("kind", ["pir", "desc"])
SUFFIX = {"pir": ".json", "desc": ".pdmodel"}
TEXT = """\
feed_var {
  name: "x"
  alias_name: "features"
  is_lod_tensor: false
  feed_type: 1
  shape: 13
}
fetch_var {
  name: "fetch_name_0"
  alias_name: "price"
  is_lod_tensor: false
  fetch_type: 1
  shape: 1
}
"""
WIRE = bytes.fromhex(
    "0a13 0a0178 12086665617475726573 1800 2001 280d121b 0a0c66657463685f6e616d655f30 12057072696365 1800 2001 2801"
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own for each test."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def listed(folder: str | Path = ".") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def of(models: Path, kind: str, name: str, **options: Any) -> ConvertOptions:
    return ConvertOptions(dirname=models / kind, model_filename=name + SUFFIX[kind], **options)


def as_others_read(folder: str, side: str) -> Any:
    """What protobuf itself makes of both files, by a description of Serving's message that is not this project's."""
    conf = _serving_message()()
    text_format.Parse(Path(folder, f"serving_{side}_conf.prototxt").read_text(), conf)
    assert conf.SerializeToString() == Path(folder, f"serving_{side}_conf.stream.prototxt").read_bytes()
    return conf


@functools.cache
def _serving_message() -> Any:
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="conf.proto", package="theirs", syntax="proto2")
    top = file.message_type.add(name="GeneralModelConfig")
    for number, side in enumerate(("feed", "fetch"), 1):
        kind = f"{side.title()}Var"
        top.field.add(name=f"{side}_var", number=number, label=3, type=field.TYPE_MESSAGE, type_name=f".theirs.{kind}")
        message = file.message_type.add(name=kind)
        for of_field, (name, label, of_type) in enumerate(
            [
                ("name", 1, field.TYPE_STRING),
                ("alias_name", 1, field.TYPE_STRING),
                ("is_lod_tensor", 1, field.TYPE_BOOL),
                (f"{side}_type", 1, field.TYPE_INT32),
                ("shape", 3, field.TYPE_INT32),
            ],
            1,
        ):
            message.field.add(name=name, number=of_field, label=label, type=of_type)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("theirs.GeneralModelConfig"))


# What is written


def test_the_folders(models: Path) -> None:
    options = of(models, "pir", "linear", feed_alias_names=["features"], fetch_alias_names=["price"])
    assert str(convert.convert(options)) == "features float32[-1, 13] -> price float32[-1, 1]"
    for side in ("server", "client"):
        folder = Path(f"serving_{side}")
        assert (folder / f"serving_{side}_conf.prototxt").read_text() == TEXT
        assert (folder / f"serving_{side}_conf.stream.prototxt").read_bytes() == WIRE
    confs = ["serving_server_conf.prototxt", "serving_server_conf.stream.prototxt"]
    assert listed("serving_server") == sorted(["linear.json", "params.pdiparams", *confs])
    assert listed("serving_client") == [name.replace("server", "client") for name in confs]
    for name, source in (("linear.json", "linear.json"), ("params.pdiparams", "linear.pdiparams")):
        assert Path("serving_server", name).read_bytes() == (models / "pir" / source).read_bytes()
    assert listed() == ["serving_client", "serving_server"]


@BOTH
@pytest.mark.parametrize("name", ["convolution", "many", "plain", "static"])
def test_names_types_and_shapes(models: Path, kind: str, name: str) -> None:
    described = convert.convert(of(models, kind, name))
    numbers = {"int64": 0, "float32": 1, "int32": 2, "float64": 3, "float16": 5, "bool": 9}
    conf = as_others_read("serving_server", "server")
    assert conf == as_others_read("serving_client", "client")
    feeds = [(v.name, v.alias_name, v.is_lod_tensor, v.feed_type, list(v.shape)) for v in conf.feed_var]
    fetches = [(v.name, v.alias_name, v.is_lod_tensor, v.fetch_type, list(v.shape)) for v in conf.fetch_var]
    for specs, found in (
        (described.inputs, feeds),
        (sorted(described.outputs, key=lambda spec: spec.source), fetches),
    ):
        assert found == [
            (spec.source, spec.source, False, numbers[spec.dtype], [n for n in spec.shape if n >= 0]) for spec in specs
        ]
    assert name != "convolution" or feeds == [("image", "image", False, 1, [3])]


def test_outputs_are_sorted_before_they_get_their_aliases(models: Path, tmp_path: Path) -> None:
    """The model's order is another one."""
    text = (models / "pir" / "static.json").read_text()
    (tmp_path / "m.json").write_text(text.replace("fetch_name_0", "later").replace("fetch_name_1", "earlier"))
    shutil.copy(models / "pir" / "static.pdiparams", tmp_path / "m.pdiparams")
    described = convert.convert(ConvertOptions(dirname=tmp_path / "m.json", fetch_alias_names=["first", "second"]))
    assert [(spec.source, spec.name) for spec in described.outputs] == [("later", "second"), ("earlier", "first")]
    conf = as_others_read("serving_server", "server")
    assert [(v.name, v.alias_name) for v in conf.fetch_var] == [("earlier", "first"), ("later", "second")]


def test_an_output_with_lengths(models: Path, tmp_path: Path) -> None:
    program = messages.decode("ProgramDesc", (models / "desc" / "linear.pdmodel").read_bytes())
    [output] = [op.inputs[0].arguments[0] for op in program.blocks[0].ops if op.type == "fetch"]
    [variable] = [each for each in program.blocks[0].vars if each.name == output]
    variable.type.dense_tensor.lod_level = 1
    (tmp_path / "m.pdmodel").write_bytes(program.SerializeToString())
    shutil.copy(models / "desc" / "linear.pdiparams", tmp_path / "m.pdiparams")
    convert.convert(ConvertOptions(dirname=tmp_path / "m.pdmodel"))
    [fetch] = as_others_read("serving_server", "server").fetch_var
    assert (fetch.is_lod_tensor, list(fetch.shape)) == (True, [-1])


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (("__model__", "__params__"), ("__model__", "__params__")),
        (("net.pdmodel", "net.pdiparams"), ("net.pdmodel", "net.pdiparams")),
        (("old", "weights.bin"), ("model.pdmodel", "params.pdiparams")),
    ],
)
def test_files_keep_names_that_a_server_finds(models: Path, given: tuple[str, str], written: tuple[str, str]) -> None:
    Path("exported").mkdir()
    for name, ending in zip(given, (".pdmodel", ".pdiparams"), strict=True):
        shutil.copy(models / "desc" / f"linear{ending}", f"exported/{name}")
    convert.convert(ConvertOptions(dirname=Path("exported"), model_filename=given[0], params_filename=given[1]))
    assert listed("serving_server")[:-2] == sorted(written) or set(written) < set(listed("serving_server"))
    assert pack(PackOptions(model_name="m", version="1", serialized_file=Path("serving_server"))).exists()


def test_a_file_for_each_parameter(models: Path) -> None:
    shutil.copytree(models / "desc" / "separate", "exported")
    shutil.copy(models / "desc" / "linear.pdmodel", "exported/__model__")
    convert.convert(ConvertOptions(dirname=Path("exported")))
    weights = Path("serving_server/params.pdiparams").read_bytes()
    assert weights == (models / "desc" / "linear.pdiparams").read_bytes()


# What is refused


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"feed_alias_names": ["a", "b"]}, r"--feed_alias_names a,b: expected 3 names, .* each of words, mask, scale"),
        ({"feed_alias_names": ["a", "", "b"]}, r"--feed_alias_names a,,b: expected 3 names"),
        ({"fetch_alias_names": ["a"] * 4}, "'a' would be the name of"),
        ({"model_filename": "gone.json"}, "gone.json: no such file"),
        ({"params_filename": "linear.pdiparams"}, "not the parameters of this model"),
        ({"params_filename": "gone"}, "gone: no such file"),
        ({"serving_client": Path("serving_server/client")}, "not apart from --serving_server"),
        ({"serving_client": Path("serving_server")}, "not apart from --serving_server"),
        ({"key_file": Path("serving_server/key")}, "key would be in it"),
    ],
)
def test_what_cannot_be_converted(models: Path, options: dict[str, Any], problem: str) -> None:
    with pytest.raises((PackingError, InvalidModel), match=problem):
        convert.convert(replace(of(models, "pir", "many"), **options))
    assert listed() == []


def test_inputs_with_lengths_and_missing_weights(models: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="'words' is a LoD tensor"):
        convert.convert(of(models, "desc", "lengths"))
    shutil.copy(models / "pir" / "linear.json", tmp_path)
    with pytest.raises(PackingError, match=r"has 2 parameters, .* name the weights with --params_filename"):
        convert.convert(ConvertOptions(dirname=tmp_path / "linear.json"))


def test_folders_are_replaced_only_by_force_and_only_those_that_were_converted(models: Path) -> None:
    options = of(models, "pir", "linear")
    convert.convert(options)
    with pytest.raises(PackingError, match=r"--serving_server .*: exists already; replace it with --force"):
        convert.convert(options)
    convert.convert(replace(of(models, "desc", "linear"), force=True))
    assert "linear.pdmodel" in listed("serving_server")
    assert "linear.json" not in listed("serving_server")
    Path("serving_client/serving_client_conf.prototxt").unlink()
    with pytest.raises(PackingError, match=r"--serving_client .*: exists and has no serving_client_conf.prototxt"):
        convert.convert(replace(options, force=True))
    assert "linear.pdmodel" in listed("serving_server")
    shutil.rmtree("serving_client")
    with pytest.raises(PackingError, match=r"--serving_server .*linear.pdmodel would be in it"):
        convert.convert(ConvertOptions(dirname=Path("serving_server"), force=True))


def test_nothing_is_left_when_writing_fails(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pdarchiver.serving_text.write", full)
    with pytest.raises(OSError, match="No space left"):
        convert.convert(of(models, "pir", "linear", key_file=Path("key")))
    assert listed() == []


# Encryption


@BOTH
def test_encryption(models: Path, kind: str) -> None:
    convert.convert(of(models, kind, "linear", key_file=Path("key")))
    assert listed("serving_server")[:2] == ["encrypt_model", "encrypt_params"]
    assert len(listed("serving_server")) == 4
    assert stat.S_IMODE(Path("key").stat().st_mode) == 0o600
    key = encryption.read_key(Path("key"))
    assert len(key) == 16
    for name, ending in (("encrypt_model", SUFFIX[kind]), ("encrypt_params", ".pdiparams")):
        plain = (models / kind / f"linear{ending}").read_bytes()
        with Path("serving_server", name).open("rb") as file:
            assert b"".join(encryption.decrypted(file, key)) == plain
        assert plain[:40] not in Path("serving_server", name).read_bytes()
    with pytest.raises(PackingError, match="--key key: exists already, and may be the key of another model"):
        convert.convert(of(models, kind, "linear", key_file=Path("key"), force=True))
    assert encryption.read_key(Path("key")) == key
    with pytest.raises(PackingError, match="the model is encrypted; name the one it was made from"):
        show(ConvertOptions(dirname=Path("serving_server")))


@pytest.mark.parametrize("content", [b"", b"x" * 15, b"x" * 17, b"x" * 33])
def test_what_is_no_key(content: bytes) -> None:
    Path("key").write_bytes(content)
    with pytest.raises(ValueError, match="expected a key of 16, 24 or 32 bytes"):
        encryption.read_key(Path("key"))


# The commands and the function


@pytest.mark.parametrize("command", [["pd-model-archiver", "convert"], ["python", "-m", "pdserver.convert"]])
def test_the_commands(models: Path, command: list[str]) -> None:
    def run(*args: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        line = [str(BIN / command[0]), *command[1:], "--dirname", models / "pir", *args]
        done = subprocess.run([*map(str, line)], capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return done

    names = ("--model_filename", "linear.json", "--params_filename", "linear.pdiparams")
    aliases = ("--feed_alias_names", "features", "--fetch_alias_names", "price")
    for shown in (["--show_proto"], ["--show_proto", "True"]):
        assert run(*names, *aliases, *shown).stdout == TEXT
        assert listed() == []
    done = run(*names, *aliases, "--serving_server", "s/erver", "--serving_client", "c", "--show_proto", "False")
    assert done.stdout == "wrote s/erver and c: features float32[-1, 13] -> price float32[-1, 1]\n"
    assert Path("s/erver/serving_server_conf.prototxt").read_text() == TEXT
    run(*names, "--encryption", "--key", "k")
    assert listed() == ["c", "k", "s", "serving_client", "serving_server"]
    run(*names, "--force")
    assert "linear.json" in listed("serving_server")
    assert "belong together" in run(*names, "--encryption", "-f", status=1).stderr
    assert "'maybe': expected True or False" in run(*names, "--show_proto", "maybe", status=2).stderr
    assert "did you mean --model_filename?" in run("--model-filename", "linear.json", status=2).stderr


def test_the_function(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given: Callable[..., tuple[list[str], list[str]]] = inference_model_to_serving
    aliases = {"feed_alias_names": "features", "fetch_alias_names": "price"}
    names = ("serving_server", "serving_client", "linear.json", "linear.pdiparams")
    assert given(models / "pir", *names, show_proto=True, **aliases) == (["x"], ["fetch_name_0"])
    assert capsys.readouterr().out == TEXT
    assert listed() == []
    assert given(models / "pir", *names, **aliases, encryption=True, key_file="key") == (["x"], ["fetch_name_0"])
    assert listed() == ["key", "serving_client", "serving_server"]
    with pytest.raises(ValueError, match="encryption=True and key_file belong together"):
        given(models / "pir", *names, encryption=True, force=True)


def test_paddle_is_not_needed(models: Path) -> None:
    code = (
        "import sys; sys.modules['paddle'] = None; from pdserver.convert import inference_model_to_serving as convert; "
        "convert(sys.argv[1], model_filename='linear.json')"
    )
    subprocess.run([sys.executable, "-c", code, models / "pir"], check=True, env={**os.environ, "PATH": ""})


# Served


@BOTH
def test_what_was_converted_is_served_by_its_aliases(models: Path, kind: str, lent: Lent) -> None:
    convert.convert(of(models, kind, "linear", feed_alias_names=["features"], fetch_alias_names=["price"]))
    server = lent("base_handler", "house", serialized_file=Path("serving_server"))
    answer = server.predict("house", json={"features": [[0.0] * 13]})
    plain = lent("base_handler", "plain", serialized_file=models / kind / f"linear{SUFFIX[kind]}")
    [expected] = plain.predict("plain", json={"x": [[0.0] * 13]}).json().values()
    assert (answer.status_code, answer.json()) == (200, {"price": expected}), answer.text
    wrong = server.predict("house", json={"x": [[0.0] * 13]})
    assert wrong.status_code == 400
    assert inspect(lent.store / "house.pdar").manifest.serialized_file == f"linear{SUFFIX[kind]}"
