"""The model_config_list: what is read of it, what is refused and why, which versions follow, where labels may go."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdserver.dialects.protos.text import parse
from pdserver.dialects.tensorflow.control import State
from pdserver.errors import ConfigError, Conflict
from pdserver.tfserving import labels
from pdserver.tfserving.config import ModelServerConfig, ignored, parsed, texts, wanted_by
from pdserver.tfserving.policy import Choice, Steps, steps
from pdserver.tfserving.source import VersionFolder
from pdserver.tfserving.version import Version

AT = 'base_path: "/models/fit"'
FILE = Path("models.config")

START, LOADING, AVAILABLE, UNLOADING, END = State.START, State.LOADING, State.AVAILABLE, State.UNLOADING, State.END


def listed(*configs: str) -> str:
    return "model_config_list {" + " ".join(f"config {{ {config} }}" for config in configs) + "}"


def fit(more: str) -> str:
    return listed(f'name: "fit" {AT} {more}')


def test_all_that_a_config_may_say() -> None:
    text = """
    model_config_list: {
      config: {
        name: "fit", base_path: "/models/fit", model_platform: "tensorflow"
        model_version_policy { specific { versions: 1 versions: 2 } }
        version_labels { key: 'production' value: 1 }
        version_labels { key: 'test' value: 2 }
        logging_config { log_collector_config { type: "x" } }
      }
      config { name: "other" base_path: "models/other" model_version_policy { latest { num_versions: 3 } } }
      config { name: "every" base_path: "/every" model_version_policy { all { } } }
      config { name: "plain" base_path: "/plain" model_platform: "paddle" }
    }"""
    models, warnings = parsed({FILE: text})
    assert {name: (str(model.base_path), model.choice) for name, model in models.items()} == {
        "fit": ("/models/fit", Choice(specific=frozenset({1, 2}))),
        "other": (str(Path("models/other").absolute()), Choice(latest=3)),
        "every": ("/every", Choice()),
        "plain": ("/plain", Choice(latest=1)),
    }
    assert models["fit"].labels == {"production": 1, "test": 2}
    assert warnings == ["models.config: model fit: logging_config has no effect: requests are not recorded"]
    assert parsed({FILE: "model_config_list {}"}) == ({}, [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('model_config_list {\n config { nam: "x" } }', 'models.config:2:11 : ModelConfig has no field "nam"; did you'),
        ("model_config_lst {}", 'ModelServerConfig has no field "model_config_lst"; did you mean model_config_list?'),
        (fit("model_version_policy { latst {} }"), 'ServableVersionPolicy has no field "latst"; did you mean latest?'),
        (fit("model_version_policy { latest { versions: 1 } }"), 'Latest has no field "versions"; did you mean num_'),
        (fit("version_labels { key: 'x' version: 3 }"), 'VersionLabelsEntry has no field "version"'),
        (fit("model_version_policy { latest {} all {} }"), 'Field "all" is specified along with field "latest"'),
        (fit("model_version_policy { latest { num_versions: -1 } }"), "models.config:1:"),
        (fit("model_version_policy { specific { versions: one } }"), "models.config:1:"),
        (fit("model_version_policy { specific {} }"), "specific: it names no version: write such as versions: 1"),
        (fit("model_version_policy { specific { versions: -3 } }"), "versions: -3: versions are 0 and more"),
        ('model_config_list { config { name: "fit" ', "models.config:1:"),
        (listed(AT), "config 1: it has no name"),
        (listed(f'name: "a b" {AT}'), "config 1 (a b): name: model name 'a b': must start with a letter"),
        (listed(f'name: "fit" {AT}', 'name: "x"'), "config 2 (x): base_path: it is missing: name the folder"),
        (listed('name: "fit" base_path: "gs://bucket/fit"'), "gs://bucket/fit: folders of this machine alone"),
        (listed(f'name: "fit" {AT}', f'name: "fit" {AT}'), "Illegal to list model fit multiple times in config list"),
        (fit('model_platform: "tensorflw"'), "model_platform: tensorflw; did you mean tensorflow?"),
        (fit("version_labels { value: 3 }"), "version_labels: a label without a name"),
        (fit("version_labels { key: 'x' value: -3 }"), "version_labels: x: -3: versions are 0 and more"),
        (
            fit("model_version_policy { specific { versions: 1 } } version_labels { key: 'x' value: 2 }"),
            "x: version 2 is not among those of the policy specific: 1",
        ),
        ('custom_model_config { type_url: "x" }', "custom_model_config: there is no code for it here"),
        ("", "it has no model_config_list: write model_config_list { config { … } }"),
        ("x" * 1_100_000, "1100000 characters of configuration; at most 1048576 are accepted"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parsed({FILE: text})
    assert said in str(refused.value)
    assert str(refused.value).startswith("models.config:")


def test_a_folder_of_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file in it ends with \.pbtxt"):
        texts(tmp_path)
    (tmp_path / "a.pbtxt").write_text(listed(f'name: "a" {AT}'))
    (tmp_path / "b.pbtxt").write_text(listed(f'name: "b" {AT}'))
    (tmp_path / "notes.txt").write_text("not looked at")
    assert list(parsed(texts(tmp_path))[0]) == ["a", "b"]
    (tmp_path / "c.pbtxt").write_text(listed(f'name: "a" {AT}'))
    with pytest.raises(ConfigError, match=r"c\.pbtxt: Illegal to list model a multiple times"):
        parsed(texts(tmp_path))
    (tmp_path / "d.pbtxt").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"d\.pbtxt: not UTF-8 at byte 0"):
        texts(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        texts(tmp_path / "none")


def test_a_message_of_a_client_is_read_alike() -> None:
    message = parse(fit("logging_config {}"), ModelServerConfig, "a call")
    assert list(wanted_by(message, "a call")) == ["fit"]
    assert list(ignored(message)) == ["model fit: logging_config has no effect: requests are not recorded"]


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        (Choice(latest=1), {10}),
        (Choice(latest=2), {3, 10}),
        (Choice(latest=9), {1, 3, 10}),
        (Choice(), {1, 3, 10}),
        (Choice(specific=frozenset({1, 7})), {1}),
    ],
)
def test_which_versions_a_policy_wants(choice: Choice, wanted: set[int]) -> None:
    assert choice.of([10, 1, 3]) == wanted
    assert choice.of([]) == set()


@pytest.mark.parametrize(
    ("aspired", "states", "preserving_availability", "preserving_resources"),
    [
        ([1, 2], {}, ([1, 2], []), ([1, 2], [])),
        ([2], {1: AVAILABLE, 2: START}, ([2], []), ([], [1])),
        ([2], {1: AVAILABLE, 2: LOADING}, ([], []), ([], [1])),
        ([2], {1: AVAILABLE, 2: AVAILABLE}, ([], [1]), ([], [1])),
        ([2], {1: UNLOADING, 2: START}, ([2], []), ([], [])),
        ([2], {1: END, 2: START}, ([2], []), ([2], [])),
        ([2], {1: AVAILABLE, 2: END}, ([], []), ([], [1])),
        ([], {1: AVAILABLE, 2: AVAILABLE}, ([], [1, 2]), ([], [1, 2])),
        ([2, 3], {1: AVAILABLE, 2: AVAILABLE, 3: LOADING}, ([], [1]), ([], [1])),
    ],
)
def test_what_is_begun_next(
    aspired: list[int],
    states: dict[int, State],
    preserving_availability: tuple[list[int], list[int]],
    preserving_resources: tuple[list[int], list[int]],
) -> None:
    assert steps(aspired, states, resource_preserving=False) == Steps(*preserving_availability)
    assert steps(aspired, states, resource_preserving=True) == Steps(*preserving_resources)


@pytest.mark.parametrize(("state", "anew"), [(UNLOADING, True), (END, False), (AVAILABLE, False)])
def test_a_version_that_is_wanted_while_it_is_unloaded_begins_anew(state: State, anew: bool) -> None:
    """One that could not be loaded does not."""
    folder = VersionFolder("fit", 1, Path("/models/fit/1"), ())
    version = Version(folder)
    version.state = state
    if state is UNLOADING:
        version.drop()
    version.want(folder)
    if state is UNLOADING:
        version.state = END
    assert version.begins_anew(folder) is anew


@pytest.mark.parametrize(
    ("wanted", "allow_new", "refusal"),
    [
        ({"stable": 1}, False, ""),
        ({"stable": 2}, False, ""),
        ({"canary": 2}, False, ""),
        ({"old": 7}, False, ""),
        (
            {"canary": 3},
            False,
            "canary: version 3 is not available (available: 1, 2): give the label once it is, or allow it by"
            " --allow_version_labels_for_unavailable_models"
            " (the key tensorflow_allow_version_labels_for_unavailable_models)",
        ),
        ({"canary": 3}, True, ""),
        ({"new": 4}, False, ""),
        ({"stable": 4}, False, "stable: version 4 is not available (available: 1, 2)"),
        ({"stable": 3}, True, "stable: version 3 is not available, and it is 1 now: only a new label"),
    ],
)
def test_where_labels_may_go(wanted: dict[str, int], allow_new: bool, refusal: str) -> None:
    """There are the labels `stable`, and `old` for a version that has ended; version 4 is being loaded."""

    def check() -> None:
        labels.check("fit", wanted, {"stable": 1, "old": 7}, {1, 2}, {1, 2, 4}, allow_new=allow_new)

    if refusal:
        with pytest.raises(Conflict, match="model fit: version_labels: ") as refused:
            check()
        assert refusal in str(refused.value)
    else:
        check()
