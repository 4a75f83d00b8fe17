"""What is packed is what was asked for, and what is wrong is said when packing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from pdarchiver import (
    ArchiveError,
    InvalidModel,
    PackingError,
    PackOptions,
    archive,
    inspect,
    messages,
    pack,
    unpack,
    verify,
)
from pdarchiver.manifest import MANIFEST_PATH
from pdarchiver.pack import ARCHIVE_FORMATS
from pdarchiver.reading import Limits

FORMATS = pytest.mark.parametrize("archive_format", ARCHIVE_FORMATS)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own for each test."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def packed(**options: Any) -> Path:
    return pack(PackOptions(**{"model_name": "m", "version": "1.0", **options}))


def files(path: Path) -> list[str]:
    return sorted(entry.path for entry in inspect(path).entries if entry.path != MANIFEST_PATH and not entry.folder)


def listed(folder: str = ".") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def write(path: str, text: str = "text\n") -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    return Path(path)


# A whole archive, in each format.


@FORMATS
def test_everything_at_once(linear: Path, archive_format: Any, tmp_path: Path) -> None:
    handler = write("src/handler.py", "def run(data, context): ...\n")
    write("assets/deep/vocab.txt")
    path = packed(
        model_name="price",
        version="2.1",
        handler=f"{handler}:run",
        serialized_file=linear,
        model_file=write("net.py", "class Net: ...\n"),
        requirements_file=write("requirements.txt"),
        config_file=write("price.yaml", "inputs: {x: features}\noutputs: {fetch_name_0: price}\n"),
        extra_files=("assets",),
        archive_format=archive_format,
        export_path=Path("store"),
    )
    endings = {"default": ".pdar", "zip-store": ".pdar", "tgz": ".tar.gz", "no-archive": ""}
    assert path == Path("store") / f"price{endings[archive_format]}"
    manifest = verify(path)
    assert (manifest.model_name, manifest.model_version, manifest.handler) == ("price", "2.1", "handler.py:run")
    assert manifest.serialized_file == "linear.json"
    assert manifest.params_file == "linear.pdiparams"
    assert manifest.model_file == "net.py"
    assert manifest.requirements_file == "requirements.txt"
    assert manifest.config_file == "price.yaml"
    assert str(manifest.signature) == "features float32[-1, 13] -> price float32[-1, 1]"
    expected = ["assets/deep/vocab.txt", "handler.py", "linear.json", "linear.pdiparams", "net.py", "price.yaml"]
    assert files(path) == sorted([*expected, "requirements.txt"]) == sorted(manifest.files)
    assert unpack(path, tmp_path / "out") == archive.read_manifest(tmp_path / "out") == manifest
    assert (tmp_path / "out" / "linear.pdiparams").read_bytes() == linear.with_suffix(".pdiparams").read_bytes()
    assert listed("store") == [path.name]


def test_the_formats_outside() -> None:
    """Common tools read what is written; the tar has the model's name as its top folder, as TorchServe's."""
    write("a.txt")
    with zipfile.ZipFile(packed(extra_files=("a.txt",))) as opened:
        assert opened.namelist() == ["a.txt", MANIFEST_PATH]
        assert opened.testzip() is None
    with tarfile.open(packed(extra_files=("a.txt",), archive_format="tgz")) as opened_tar:
        assert opened_tar.getnames() == ["m/a.txt", f"m/{MANIFEST_PATH}"]


@FORMATS
def test_same_files_same_bytes(linear: Path, archive_format: Any) -> None:
    """Whatever the time, the order in which the files are named, and their modes."""
    write("b.txt")
    write("a.txt", "a" * 10_000)
    options = PackOptions(
        model_name="m",
        version="1",
        serialized_file=linear,
        archive_format=archive_format,
        extra_files=("a.txt", "b.txt"),
        export_path=Path("first"),
    )
    first = pack(options)
    os.utime("a.txt", (1, 1))
    Path("b.txt").chmod(0o755)
    second = pack(replace(options, extra_files=("b.txt", "./a.txt", "a.txt"), export_path=Path("second")))
    if archive_format == "no-archive":
        assert (first / MANIFEST_PATH).read_bytes() == (second / MANIFEST_PATH).read_bytes()
    else:
        assert first.read_bytes() == second.read_bytes()


def test_a_date_only_when_asked_for() -> None:
    assert verify(packed()).created_on is None
    path = packed(created_on=datetime(2025, 12, 31, 23, 59, 58, tzinfo=timezone.utc), force=True)
    assert verify(path).created_on == "31/12/2025 23:59:58"


def test_compressed_only_where_it_helps(linear: Path) -> None:
    write("text.txt", "the same again\n" * 1000)
    Path("noise.bin").write_bytes(os.urandom(100_000))
    path = packed(extra_files=("text.txt", "noise.bin"))
    with zipfile.ZipFile(path) as opened:
        methods = {info.filename: info.compress_type for info in opened.infolist()}
    assert methods["text.txt"] == zipfile.ZIP_DEFLATED
    assert methods["noise.bin"] == zipfile.ZIP_STORED
    with zipfile.ZipFile(packed(extra_files=("text.txt",), archive_format="zip-store", force=True)) as opened:
        assert {info.compress_type for info in opened.infolist()} == {zipfile.ZIP_STORED}


@FORMATS
def test_zeros_are_not_mistaken_for_a_bomb(archive_format: Any) -> None:
    """Weights that are all zeros compress a thousandfold, further than any reader allows."""
    Path("zeros.bin").write_bytes(bytes(3_000_000))
    assert "zeros.bin" in verify(packed(extra_files=("zeros.bin",), archive_format=archive_format)).files


def test_the_prefix_that_paddle_was_given(linear: Path, models: Path, tmp_path: Path) -> None:
    manifest = verify(packed(serialized_file=linear.with_suffix("")))
    assert (manifest.serialized_file, manifest.params_file) == ("linear.json", "linear.pdiparams")
    for file in (linear, models / "desc" / "linear.pdmodel"):
        shutil.copy(file, tmp_path)
    with pytest.raises(PackingError, match=r"linear: stands for linear\.json and linear\.pdmodel; name one"):
        packed(serialized_file=tmp_path / "linear", force=True)
    with pytest.raises(PackingError, match="quadratic: no such file"):
        packed(serialized_file=tmp_path / "quadratic", force=True)


def test_a_folder_of_paddle_1(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    shutil.copy(models / "desc" / "linear.pdmodel", folder / "__model__")
    with pytest.raises(PackingError, match=r"no __params__ beside it, nor a file for each parameter; name the weights"):
        packed(serialized_file=folder)
    shutil.copy(models / "desc" / "linear.pdiparams", folder / "__params__")
    manifest = verify(packed(serialized_file=folder))
    assert (manifest.serialized_file, manifest.params_file) == ("__model__", "__params__")
    assert str(manifest.signature).startswith("x float32[-1, 13] -> ")


def test_a_folder_of_paddle_1_with_a_file_for_each_parameter(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scattered"
    folder.mkdir()
    shutil.copy(models / "desc" / "linear.pdmodel", folder / "__model__")
    bias, weights = (Path(shutil.copy(file, folder)) for file in sorted((models / "desc" / "separate").iterdir()))
    path = packed(serialized_file=folder, archive_format="no-archive")
    assert files(path) == ["__model__", "__params__"]
    assert (path / "__params__").read_bytes() == (models / "desc" / "linear.pdiparams").read_bytes()
    weights.rename(folder / "renamed")
    with pytest.raises(PackingError, match=r"2 parameters, .* 1 of those files are not there: linear_.\.w_0; copy the"):
        packed(serialized_file=folder, force=True)
    shutil.copy(bias, weights)
    with pytest.raises(InvalidModel, match=r"linear_.\.w_0: not the parameters of this model: it lacks 1 .*\[13, 1\]"):
        packed(serialized_file=folder, force=True)


def test_only_a_handler() -> None:
    manifest = verify(packed(handler=str(write("echo.py", "def handle(data, context):\n    return data\n"))))
    assert (manifest.handler, manifest.serialized_file, manifest.signature) == ("echo.py", None, None)


# --serialized-file and --params-file.


def test_a_pdmodel_file(models: Path) -> None:
    manifest = verify(packed(serialized_file=models / "desc" / "many.pdmodel"))
    assert (manifest.serialized_file, manifest.params_file) == ("many.pdmodel", "many.pdiparams")
    assert manifest.signature is not None
    assert [spec.dtype for spec in manifest.signature.inputs] == ["int64", "bool", "float32"]


def test_a_model_without_parameters(models: Path) -> None:
    assert verify(packed(serialized_file=models / "pir" / "plain.json")).params_file is None


def test_params_from_elsewhere(linear: Path) -> None:
    model = Path(shutil.copy(linear, "net.json"))
    weights = Path(shutil.copy(linear.with_suffix(".pdiparams"), "trained.pdiparams"))
    with pytest.raises(PackingError, match=r"has 2 parameters, but there is no net\.pdiparams .*--params-file"):
        packed(serialized_file=model)
    assert verify(packed(serialized_file=model, params_file=weights)).params_file == "trained.pdiparams"


def test_params_that_do_not_belong(models: Path) -> None:
    with pytest.raises(InvalidModel, match=r"many\.pdiparams: not the parameters of this model"):
        packed(serialized_file=models / "pir" / "linear.json", params_file=models / "pir" / "many.pdiparams")
    Path("empty.pdiparams").touch()
    with pytest.raises(InvalidModel, match=r"empty\.pdiparams: .*lacks 2 parameters"):
        packed(serialized_file=models / "pir" / "linear.json", params_file=Path("empty.pdiparams"))


@pytest.mark.parametrize("kind", ["pir", "desc"])
def test_an_inference_folder(models: Path, kind: str) -> None:
    ending = {"pir": ".json", "desc": ".pdmodel"}[kind]
    Path("exported").mkdir()
    shutil.copy(models / kind / f"convolution{ending}", f"exported/inference{ending}")
    shutil.copy(models / kind / "convolution.pdiparams", "exported/inference.pdiparams")
    write("exported/label_list.json", '{"0": "tench"}')
    manifest = verify(packed(serialized_file=Path("exported")))
    assert sorted(manifest.files) == sorted([f"inference{ending}", "inference.pdiparams"])
    write("exported/inference.yml", "PreProcess: {}\n")
    manifest = verify(packed(serialized_file=Path("exported/"), force=True))
    assert sorted(manifest.files) == sorted([f"inference{ending}", "inference.pdiparams", "inference.yml"])


def test_folders_that_are_no_model(models: Path) -> None:
    Path("empty").mkdir()
    with pytest.raises(PackingError, match=r"no model in this folder; expected inference\.json"):
        packed(serialized_file=Path("empty"))
    with pytest.raises(PackingError, match=r"several models \(convolution\.json, linear\.json"):
        packed(serialized_file=models / "pir")


CONF = """\
# as Paddle Serving's converter writes it
feed_var {
  name: "x"
  alias_name: "features"
  is_lod_tensor: false
  feed_type: 1
  shape: 13
}
fetch_var { name: "OUTPUT" alias_name: 'pri' "ce" shape: [1] fetch_type: 1 }
"""


def serving_folder(models: Path, model: str = "__model__", params: str = "__params__", conf: str = CONF) -> Path:
    folder = Path("serving_server")
    folder.mkdir()
    source = models / "desc" / "linear.pdmodel"
    shutil.copy(source, folder / model)
    shutil.copy(source.with_suffix(".pdiparams"), folder / params)
    (output,) = inspect(packed(serialized_file=source, force=True)).manifest.signature.outputs  # type: ignore[union-attr]
    write("serving_server/serving_server_conf.prototxt", conf.replace("OUTPUT", output.source))
    write("serving_server/fluid_time_file")
    return folder


@pytest.mark.parametrize(
    ("model", "params"), [("__model__", "__params__"), ("model.pdmodel", "params.pdiparams"), ("model", "params")]
)
def test_a_paddle_serving_folder(models: Path, model: str, params: str) -> None:
    folder = serving_folder(models, model, params)
    manifest = verify(packed(serialized_file=folder, force=True))
    assert str(manifest.signature) == "features float32[-1, 13] -> price float32[-1, 1]"
    assert manifest.signature is not None
    assert manifest.signature.inputs[0].source == "x"
    assert sorted(manifest.files) == sorted([model, params])
    config = write("m.yaml", "outputs: {linear_0.tmp_1: cost}\n")
    manifest = verify(packed(serialized_file=folder, config_file=config, force=True))
    assert str(manifest.signature) == "features float32[-1, 13] -> cost float32[-1, 1]"


@pytest.mark.parametrize(
    ("conf", "match"),
    [
        ('feed_var { name: "y" alias_name: "z" }', r"serving_server_conf.prototxt: inputs: the model has no 'y'"),
        ("feed_var {", 'line 1:10 : Expected "}"'),
        ("feed_var {\n name: @ }", "line 2:8 : .*Expected string but found: '@'"),
        ('feed_var { alias_name: "z" }', "a feed_var or fetch_var without a name"),
        ("feed_var: 3", 'line 1:11 : .*Expected "{"'),
        ("feed_var { name { } }", 'line 1:17 : .*Expected ":"'),
        ("feed_var { " + "a { " * 100_000, "nested too deeply"),
        ('feed_var { name: "x" alias_name: "" } # no alias', ""),
    ],
)
def test_paddle_servings_conf(models: Path, conf: str, match: str) -> None:
    folder = serving_folder(models, conf=conf)
    if not match:
        assert packed(serialized_file=folder, force=True).exists()
        return
    with pytest.raises(PackingError, match=match):
        packed(serialized_file=folder, force=True)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (("feed_type: 1", "feed_type: 0"), r"serving_server_conf\.prototxt: line 6: feed_type: 0 is int64, .* write 1"),
        (("feed_type: 1", "feed_type: 20"), r"line 6: feed_type: 20 is string, .* float32: write 1 \(text is read by"),
        (("shape: 13", "shape: 14"), r"line 7: shape \[14\] does not fit the model's input 'x', .* \[-1, 13\]"),
        (("shape: 13", "shape: 2 shape: 13 shape: 1"), r"line 7: shape \[2, 13, 1\] does not fit"),
        (("# as Paddle", "# feed_var { shape: 3 } as Paddle"), ""),
        (("feed_type: 1", "feed_type: -1"), ""),
        (("  shape: 13\n", ""), ""),
        (("shape: 13", "shape: -1 shape: 13"), ""),
        (("is_lod_tensor: false", "is_lod_tensor: true shape: -1"), ""),
    ],
)
def test_what_the_conf_says_of_inputs_must_be_the_models(models: Path, change: tuple[str, str], match: str) -> None:
    folder = serving_folder(models, "model.pdmodel", "params.pdiparams", CONF.replace(*change))
    if not match:
        assert packed(serialized_file=folder, force=True).exists()
        return
    with pytest.raises(PackingError, match=match):
        packed(serialized_file=folder, force=True)


def test_the_conf_in_the_wire_format_will_do(models: Path) -> None:
    folder = serving_folder(models)
    text = folder / "serving_server_conf.prototxt"
    message = messages.decode_text("GeneralModelConfig", text.read_text())
    (folder / "serving_server_conf.stream.prototxt").write_bytes(message.SerializeToString())
    text.unlink()
    manifest = verify(packed(serialized_file=folder, force=True))
    assert str(manifest.signature) == "features float32[-1, 13] -> price float32[-1, 1]"
    (folder / "serving_server_conf.stream.prototxt").write_bytes(b"\x0a\xff")
    with pytest.raises(PackingError, match=r"stream\.prototxt: no GeneralModelConfig"):
        packed(serialized_file=folder, force=True)


def test_other_files_of_a_serving_folder_are_not_taken_for_the_model(models: Path) -> None:
    folder = serving_folder(models, "x.pdmodel", "x.pdiparams")
    write("serving_server/label_list.json", '{"0": "tench"}')
    write("serving_server/tokenizer.model")
    assert verify(packed(serialized_file=folder, force=True)).serialized_file == "x.pdmodel"


def test_labels_beside_a_model_of_paddle_1(models: Path) -> None:
    folder = Path("old")
    folder.mkdir()
    write("old/label_list.json", '{"0": "tench"}')
    for model, params in (("__model__", "__params__"), ("model", "params")):
        for source, target in ((".pdmodel", model), (".pdiparams", params)):
            shutil.copy(models / "desc" / f"linear{source}", folder / target)
        assert verify(packed(serialized_file=folder, force=True)).params_file == params
        (folder / model).unlink()
        (folder / params).unlink()


def test_the_folder_for_clients_has_no_model() -> None:
    write("there/serving_client/serving_client_conf.prototxt")
    write("there/serving_server/serving_server_conf.prototxt")
    with pytest.raises(PackingError, match="no model in this folder, which is the one for clients; name"):
        packed(serialized_file=Path("there/serving_client"))
    with pytest.raises(PackingError, match="no model in this folder; name there/serving_server, which has one"):
        packed(serialized_file=Path("there"))


def test_an_encrypted_serving_folder() -> None:
    write("serving/serving_server_conf.prototxt")
    with pytest.raises(PackingError, match="no model file"):
        packed(serialized_file=Path("serving"))
    for name in ("encrypt_model", "encrypt_params", "key"):
        write(f"serving/{name}")
    write("serving/serving_server_conf.prototxt", CONF)
    manifest = verify(packed(serialized_file=Path("serving")))
    assert str(manifest.signature) == "features float32[-1, 13] -> price float32[-1, 1]"
    assert (manifest.serialized_file, manifest.params_file) == ("encrypt_model", "encrypt_params")
    assert sorted(manifest.files) == ["encrypt_model", "encrypt_params"]
    write("serving/serving_server_conf.prototxt", CONF.replace("feed_type: 1", "feed_type: 20"))
    with pytest.raises(PackingError, match="'x' is of type 20, which Paddle's predictor does not know"):
        packed(serialized_file=Path("serving"), force=True)


def test_weights_in_the_place_of_the_model(linear: Path) -> None:
    with pytest.raises(PackingError, match="these are weights; name the model file"):
        packed(serialized_file=linear.with_suffix(".pdiparams"))
    with pytest.raises(PackingError, match="name its model as well"):
        packed(params_file=linear.with_suffix(".pdiparams"))


def test_a_state_dict_goes_with_python_code() -> None:
    weights, code = write("net.pdparams"), write("net.py", "class Net: ...\n")
    with pytest.raises(InvalidModel, match="not a Paddle model"):
        packed(serialized_file=weights)
    manifest = verify(packed(serialized_file=weights, model_file=code))
    assert (manifest.serialized_file, manifest.model_file, manifest.signature) == ("net.pdparams", "net.py", None)


# --extra-files.


def test_extra_files_keep_their_tree() -> None:
    for path in ("d/one.txt", "d/sub/two.txt", "d/.hidden", "d/__pycache__/x.pyc", "d/.git/config", "d/.DS_Store"):
        write(path)
    assert files(packed(extra_files=("d",))) == ["d/.hidden", "d/one.txt", "d/sub/two.txt"]
    assert files(packed(extra_files=("./d",), force=True)) == ["d/.hidden", "d/one.txt", "d/sub/two.txt"]
    assert files(packed(extra_files=("d/",), force=True)) == [".hidden", "one.txt", "sub/two.txt"]
    assert files(packed(extra_files=("d/sub",), force=True)) == ["sub/two.txt"]
    assert files(packed(extra_files=("d/.",), force=True)) == ["d/.hidden", "d/one.txt", "d/sub/two.txt"]


def test_globs() -> None:
    for path in ("a1.txt", "a2.txt", "b.txt", "dirs/x/1", "dirs/y/2", "odd[1].txt"):
        write(path)
    assert files(packed(extra_files=("a?.txt",))) == ["a1.txt", "a2.txt"]
    assert files(packed(extra_files=("[ab]*.txt",), force=True)) == ["a1.txt", "a2.txt", "b.txt"]
    assert files(packed(extra_files=("dirs/*",), force=True)) == ["x/1", "y/2"]
    assert files(packed(extra_files=("dirs/*/",), force=True)) == ["1", "2"]
    assert files(packed(extra_files=("odd[1].txt",), force=True)) == ["odd[1].txt"]


@pytest.mark.parametrize(
    ("item", "match"),
    [("gone.txt", "no such file or folder"), ("gone*", "matches nothing"), ("dangling", "no such file")],
)
def test_extra_files_that_are_not_there(item: str, match: str) -> None:
    Path("dangling").symlink_to("nowhere")
    with pytest.raises(PackingError, match=match):
        packed(extra_files=(item,))


def test_names_that_collide() -> None:
    write("a/labels.txt", "a")
    write("b/labels.txt", "b")
    with pytest.raises(PackingError, match=r"a/labels\.txt and b/labels\.txt would both be 'labels\.txt'"):
        packed(extra_files=("a/labels.txt", "b/labels.txt"))
    write("b/Labels.txt")
    with pytest.raises(PackingError, match=r"a/labels\.txt and b/Labels\.txt would both be"):
        packed(extra_files=("a/labels.txt", "b/Labels.txt"))
    write("c/labels.txt/x")
    with pytest.raises(PackingError, match=r"c/labels\.txt/x and a/labels\.txt would both be"):
        packed(extra_files=("c/", "a/labels.txt"))
    with pytest.raises(PackingError, match=r"a/labels\.txt and c/labels\.txt/x would both be"):
        packed(extra_files=("a/labels.txt", "c/labels.txt"))
    assert files(packed(extra_files=("a/labels.txt", "a/*", "a/"))) == ["labels.txt"]


def test_the_handler_may_be_among_the_extra_files() -> None:
    write("handler.py", "def handle(data, context): ...\n")
    write("tools.py", "")
    assert files(packed(handler="handler.py", extra_files=("*.py",))) == ["handler.py", "tools.py"]


@pytest.mark.parametrize("name", ["PDAR-INF/MANIFEST.json", "mar-inf/x", "MAR-INF/MANIFEST.json"])
def test_the_manifests_place_is_taken(name: str) -> None:
    write(f"d/{name}")
    with pytest.raises(PackingError, match="where the manifest is kept"):
        packed(extra_files=("d/",))


@pytest.mark.parametrize("name", ["a:b", "a\\b", "trailing ", "new\nline", "rtl\u202e"])
def test_names_that_no_archive_may_hold(name: str) -> None:
    write(f"d/{name}")
    with pytest.raises(PackingError, match="its name in the archive"):
        packed(extra_files=("d",))


def test_links() -> None:
    write("real/file.txt", "content")
    Path("link.txt").symlink_to("real/file.txt")
    path = packed(extra_files=("link.txt",))
    unpack(path, Path("out"))
    assert Path("out/link.txt").read_text() == "content"
    assert not Path("out/link.txt").is_symlink()
    Path("real/loop").symlink_to(".")
    with pytest.raises(PackingError, match="a link to a folder"):
        packed(extra_files=("real",), force=True)
    Path("real/loop").unlink()
    os.mkfifo("real/pipe")
    with pytest.raises(PackingError, match="pipe: not a file"):
        packed(extra_files=("real",), force=True)


def test_an_archive_does_not_hold_itself() -> None:
    write("a.txt")
    packed(extra_files=("a.txt",))
    with pytest.raises(PackingError, match=r"m\.pdar: the archive would hold itself"):
        packed(extra_files=("*",), force=True)
    packed(extra_files=("a.txt",), archive_format="no-archive")
    with pytest.raises(PackingError, match="the archive would hold itself"):
        packed(extra_files=("m",), archive_format="no-archive", force=True)


def test_the_readers_limits_hold_for_the_packer() -> None:
    for number in range(5):
        write(f"d/{number}", "x" * 100)
    options = PackOptions(model_name="m", version="1", extra_files=("d",))
    with pytest.raises(PackingError, match="limit of 5 files"):
        pack(options, Limits(entries=5))
    with pytest.raises(PackingError, match="or 499 bytes"):
        pack(options, Limits(unpacked_bytes=499))


# --config-file.


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("- a\n", "expected a mapping"),
        ("3", "expected a mapping .* found a int"),
        ("a: [", r"m\.yaml:1: "),
        ("a: 1\nb: !!python/object/apply:os.system ['touch owned']\n", r"m\.yaml:2: could not determine a constructor"),
        ("a: &x [1]\nb: *x\n", r"m\.yaml:2: aliases \(\*name\) are not accepted"),
        ("a: 1\na: 2\n", r"m\.yaml:2: key 'a' is given twice"),
        ("a: {b: 1, b: 2}\n", "'b' is given twice"),
        ("1: 2\n", "the key 1 is not text"),
        ("[" * 5000, "not YAML|m.yaml:"),
        ("a: \x00", "not YAML"),
        ("a: 2024-99-99", "not YAML"),
        ("x" * 300_000, "at most 262144"),
        ("inputs: [x]", "inputs: expected a mapping"),
        ("inputs: {x: 3}", "inputs: expected a mapping"),
        ("outputs: {fetch_name_0: ''}", "outputs: expected a mapping"),
        ("inputs: {y: features}", r"inputs: the model has no 'y'.*; it has x"),
        ("outputs: {fetch_name_O: price}", r"did you mean 'fetch_name_0'\?"),
        ("samples: x.npy", r"samples: expected a list of requests, each with a file for each input"),
        ("inputs: {x: a}\nsamples: [{x: x.npy}]", r"samples\[0\] has x, and the model's inputs are a"),
        ("samples: [{x: x.png}]", r"samples\[0\]\.x: 'x\.png': expected a \.npy file, or a \.json"),
        (
            "samples: [{x: ../x.npy}]",
            r"'\.\./x\.npy' has a component that is empty.*name a file beside the config file",
        ),
        ("samples: [{x: x.npy}]", r"x\.npy: no such file"),
    ],
)
def test_configs_that_are_refused(linear: Path, text: str, match: str) -> None:
    with pytest.raises(PackingError, match=match):
        packed(serialized_file=linear, config_file=write("m.yaml", text))
    assert listed() == ["m.yaml"]


def test_samples_are_packed_with_the_config_that_names_them(linear: Path) -> None:
    """They lie beside it, or are named as extra files."""
    write("model/samples/first.npy")
    write("second.json")
    config = write("model/m.yaml", "samples: [{x: samples/first.npy}, {x: second.json}]\n")
    path = packed(serialized_file=linear, config_file=config, extra_files=("second.json",))
    assert {"m.yaml", "samples/first.npy", "second.json"} <= set(files(path))


@pytest.mark.parametrize("text", ["", "# nothing\n", "minWorkers: 2\nhandler: {top_k: 3}\n"])
def test_configs_that_are_accepted(linear: Path, text: str) -> None:
    assert verify(packed(serialized_file=linear, config_file=write("m.yaml", text))).config_file == "m.yaml"


# Names, places, files.


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"model_name": "a/b"}, "model name 'a/b'"),
        ({"model_name": "_a"}, "must start with a letter or a digit"),
        ({"version": ""}, "model version ''"),
        ({"version": "1 beta"}, "model version '1 beta'"),
        ({"runtime": "LSP"}, "must be one of python, python3"),
        ({"archive_format": "tar"}, "must be one of default, zip-store, tgz, no-archive"),
        ({"serialized_file": Path("gone.json")}, r"gone\.json: no such file"),
        ({"model_file": Path("gone.py")}, r"gone\.py: no such file"),
        ({"requirements_file": Path("gone.txt")}, r"gone\.txt: no such file"),
        ({"config_file": Path("gone.yaml")}, r"gone\.yaml: no such file"),
        ({"requirements_file": Path()}, "not a file"),
    ],
)
def test_bad_options(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ArchiveError, match=match):
        packed(**options)
    assert listed() == []


def test_a_model_file_that_is_not_python() -> None:
    with pytest.raises(PackingError, match=r"net\.py:2: not valid Python"):
        packed(model_file=write("net.py", "class Net:\n  def\n"))


@FORMATS
def test_a_mistake_in_what_is_packed_is_told_before_what_is_in_the_way(archive_format: Any) -> None:
    packed(archive_format=archive_format)
    with pytest.raises(PackingError, match=r"neither a file no_such\.py nor a built-in handler"):
        packed(archive_format=archive_format, handler="no_such.py")


@FORMATS
def test_force(archive_format: Any) -> None:
    path = packed(archive_format=archive_format)
    with pytest.raises(PackingError, match=r"exists already; replace it with --force"):
        packed(archive_format=archive_format, version="2")
    assert verify(path).model_version == "1.0"
    assert packed(archive_format=archive_format, version="2", force=True) == path
    assert verify(path).model_version == "2"
    assert listed() == [path.name]


def test_force_does_not_replace_what_it_did_not_write() -> None:
    write("m/thesis.txt")
    with pytest.raises(PackingError, match="is no packed model"):
        packed(archive_format="no-archive", force=True)
    Path("m.pdar").mkdir()
    with pytest.raises(PackingError, match="is a folder"):
        packed(force=True)
    assert Path("m/thesis.txt").exists()


def test_an_export_path_that_is_a_file() -> None:
    write("store")
    with pytest.raises(PackingError, match="--export-path store: not a folder"):
        packed(export_path=Path("store"))


_GROW = """
from pathlib import Path
from pdarchiver import writing
from pdarchiver.pack import PackOptions, pack
members = writing._members
def growing(sources, manifest):
    for path, size, stream in members(sources, manifest):
        yield path, size, stream
        Path("log.txt").open("a").write("more")
writing._members = growing
try:
    pack(PackOptions(model_name="m", version="1", extra_files=("log.txt",)))
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_file_that_grows_meanwhile() -> None:
    write("log.txt", "x" * 100)
    run = subprocess.run([sys.executable, "-c", _GROW], capture_output=True, text=True, check=True)
    assert run.stdout == "PackingError log.txt: changed while it was packed; pack again\n"
    assert listed() == ["log.txt"]


def test_a_name_that_is_too_long_only_in_a_tar() -> None:
    write("/".join(["d" * 200] * 5))
    packed(extra_files=("d*",))
    with pytest.raises(PackingError, match="longer than 1024 bytes"):
        packed(extra_files=("d*",), model_name="m" * 30, archive_format="tgz")


def test_tampering_is_seen() -> None:
    write("a.txt")
    path = packed(extra_files=("a.txt",))
    with zipfile.ZipFile(path, "a") as opened:
        opened.writestr("handler.py", "import os")
    with pytest.raises(ArchiveError, match=r"files were added after packing.*: handler\.py"):
        verify(path)
    with pytest.raises(ArchiveError, match=r"files were added after packing.*: handler\.py"):
        unpack(path, Path("out"))
    folder = packed(extra_files=("a.txt",), archive_format="no-archive")
    (folder / "a.txt").write_text("changed")
    with pytest.raises(ArchiveError, match=r"differ from their checksum in the manifest: a\.txt"):
        verify(folder)
    (folder / "a.txt").unlink()
    with pytest.raises(ArchiveError, match=r"not in the archive: a\.txt"):
        verify(folder)
    assert not Path("out").exists()


def test_inspect(linear: Path) -> None:
    info = inspect(packed(serialized_file=linear))
    assert info.format == "zip"
    assert info.size_bytes == Path("m.pdar").stat().st_size
    sizes = {entry.path: entry.size_bytes for entry in info.entries}
    assert sizes["linear.json"] == linear.stat().st_size
    assert inspect(packed(serialized_file=linear, archive_format="tgz")).format == "tar.gz"
    assert inspect(packed(serialized_file=linear, archive_format="no-archive")).format == "folder"


def test_sha256() -> None:
    path = packed()
    expected = subprocess.run(["sha256sum", str(path)], capture_output=True, text=True, check=True).stdout.split()[0]
    assert archive.sha256(path) == expected
    with path.open("rb") as file:
        file.seek(9)
        assert archive.sha256(file) == expected
