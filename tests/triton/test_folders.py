"""A repository on disk, with real models that no worker loads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pdserver.errors import ArchiveUnusable, LoadFailed, Unavailable
from pdserver.triton.folders import Folders
from pdserver.triton.model_folder import ModelFolder
from tests.triton.folders import add_version, configure


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    return folder


def find(repository: Path, name: str = "fit") -> ModelFolder:
    return Folders([repository]).find(name)


def test_models_are_folders_with_a_version_or_a_configuration(repository: Path, fit_model: Path) -> None:
    add_version(repository, fit_model)
    configure(repository, "", "empty")
    add_version(repository, fit_model, ".hidden")
    add_version(repository, fit_model, "not_numbered", "0")
    (repository / "notes").mkdir()
    (repository / "README").write_text("")
    assert list(Folders([repository]).models()) == ["empty", "fit"]


@pytest.mark.parametrize(
    ("policy", "versions"),
    [
        ("", ["10"]),
        ("version_policy { latest { num_versions: 2 } }", ["9", "10"]),
        ("version_policy { all {} }", ["1", "9", "10"]),
        ("version_policy { specific { versions: [1, 10, 11] } }", ["1", "10"]),
    ],
)
def test_version_policies(repository: Path, fit_model: Path, policy: str, versions: list[str]) -> None:
    for version in ("1", "9", "10", "011", "beta"):
        add_version(repository, fit_model, version=version)
    configure(repository, policy)
    assert list(find(repository).versions) == versions


def test_no_version_is_available(repository: Path, fit_model: Path) -> None:
    add_version(repository, fit_model)
    configure(repository, "version_policy { specific { versions: 2 } }")
    with pytest.raises(LoadFailed, match=r"^no version is available: .*there are 1$"):
        find(repository)


def test_a_model_that_is_not_there_and_one_that_is_there_twice(
    repository: Path, tmp_path: Path, fit_model: Path
) -> None:
    add_version(repository, fit_model)
    with pytest.raises(LoadFailed, match=r"^failed to poll from model repository: .*fitt; did you mean fit\?"):
        find(repository, "fitt")
    add_version(tmp_path / "second", fit_model)
    with pytest.raises(
        LoadFailed,
        match=r"^failed to poll from model repository: model appears in two or more repositories: it is in repository"
        r" and in second$",
    ):
        Folders([repository, tmp_path / "second"]).find("fit")


def test_a_repository_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be read: No such file"):
        Folders([tmp_path / "gone"]).models()


def test_what_a_version_is_to_the_engine(repository: Path, fit_model: Path) -> None:
    add_version(repository, fit_model)
    configure(
        repository,
        """
        max_batch_size: 8
        input { name: "x" data_type: TYPE_FP32 dims: 13 }
        output { name: "linear_0" data_type: TYPE_FP32 dims: 1 label_filename: "labels.txt" }
        """.replace("linear_0", output_name(repository)),
    )
    (repository / "fit" / "labels.txt").write_text("price\n")
    folder = find(repository)
    model = folder.open(folder.url("1"))
    assert (model.name, model.manifest.model_version, model.url) == ("fit", "1", "fit/1")
    assert (model.manifest.serialized_file, model.manifest.params_file) == ("1/model.json", "1/model.pdiparams")
    assert model.manifest.signature is not None
    assert [spec.shape for spec in model.manifest.signature.inputs] == [(-1, 13)]
    assert (model.settings["batch_size"], model.settings["min_workers"]) == (8, 1)
    assert model.model_config["interface"] == {"batched": True, "labels": {output_name(repository): ["price"]}}
    assert model.manifest.raw["modelConfig"]["default_model_filename"] == "model.json"


def output_name(repository: Path) -> str:
    """Paddle gives outputs names of its own."""
    from pdarchiver import signature

    return signature.read(repository / "fit" / "1" / "model.json").signature.outputs[0].name


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("max_batch_size: 4 input { name: 'z' }", "fit/config.pbtxt: input: the model has no 'z'"),
        (
            "default_model_filename: '../../../secret.json'",
            "default_model_filename: ../../../secret.json has a component",
        ),
        ("default_model_filename: 'other.json'", "other.json: no such file"),
    ],
)
def test_a_version_that_cannot_be_opened(repository: Path, fit_model: Path, config: str, words: str) -> None:
    add_version(repository, fit_model)
    configure(repository, config)
    folder = find(repository)
    with pytest.raises(ArchiveUnusable) as caught:
        folder.open(folder.url("1"))
    assert words in str(caught.value)


def test_weights_of_another_model_are_noticed(repository: Path, fit_model: Path) -> None:
    version = add_version(repository, fit_model)
    (version / "model.pdiparams").write_bytes(b"")
    folder = find(repository)
    with pytest.raises(ArchiveUnusable, match=r"model\.pdiparams"):
        folder.open(folder.url("1"))


def test_what_has_changed(repository: Path, fit_model: Path) -> None:
    version = add_version(repository, fit_model)
    configure(repository, "instance_group { count: 1 kind: KIND_CPU }")
    before = find(repository)
    assert find(repository).workers_alone(before, "1") == 0
    configure(repository, "instance_group { count: 3 kind: KIND_CPU }")
    assert find(repository).workers_alone(before, "1") == 3
    configure(repository, "instance_group { count: 3 kind: KIND_GPU }")
    assert find(repository).workers_alone(before, "1") is None
    configure(repository, "max_batch_size: 2")
    assert find(repository).workers_alone(before, "1") is None
    configure(repository, "instance_group { count: 1 kind: KIND_CPU }")
    os.utime(version / "model.json", ns=(1, 1))
    assert find(repository).workers_alone(before, "1") is None
