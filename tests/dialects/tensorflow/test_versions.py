"""Versions and labels of TensorFlow Serving's clients, and which of ours they mean."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pdserver.dialects.rpc import Code
from pdserver.dialects.tensorflow.control import NoControl, State, VersionStatus, unknown_label
from pdserver.dialects.tensorflow.served import Models
from pdserver.dialects.tensorflow.versions import find, number
from pdserver.engine.catalogue import Catalogue, ServedVersion
from pdserver.engine.lifecycle import VersionState
from pdserver.engine.names import Model
from pdserver.errors import Conflict, InvalidRequest, ModelNotFound, VersionNotFound


class Labels(NoControl):
    def version_of(self, model: str, label: str) -> str:
        versions = {"production": "3.0", "gone": "9"}
        if label not in versions:
            raise unknown_label(label)
        return versions[label]


@pytest.fixture
def catalogue() -> Catalogue:
    unread: Any = None
    versions = {
        name: ServedVersion(unread, None, VersionState.READY, serving, 1, 1, "")
        for serving, name in enumerate(["1.0", "2.0.0", "2", "3.0", "odd"])
    }
    catalogue = Catalogue()
    catalogue.put("m", Model("m", versions, "3.0"))
    return catalogue


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        *(("3", 3), ("3.0", 3), ("3.0.0", 3), ("007", 7), ("0", 0), ("9223372036854775807", 2**63 - 1)),
        *((bad, None) for bad in ("", "3.1", "3.0.0.0", "-1", "v3", "3 ", "٣", "9223372036854775808", "1" * 5000)),
    ],
)
def test_the_number_of_a_version(version: str, expected: int | None) -> None:
    assert number(version) == expected


@pytest.mark.parametrize(
    ("version", "label", "expected"),
    [(None, "", "3.0"), (1, "", "1.0"), (2, "", "2"), (3, "", "3.0"), (None, "production", "3.0")],
)
def test_which_version_is_meant(catalogue: Catalogue, version: int | None, label: str, expected: str) -> None:
    assert find(catalogue, Labels(), "m", version, label) is catalogue.model("m").versions[expected]


@pytest.mark.parametrize(
    ("model", "version", "label", "error", "text"),
    [
        ("x", None, "", ModelNotFound, "Servable not found for request: Latest(x)"),
        ("x", 2, "", VersionNotFound, "Servable not found for request: Specific(x, 2)"),
        ("m", 4, "", VersionNotFound, "Servable not found for request: Specific(m, 4)"),
        ("m", None, "test", InvalidRequest, "Unrecognized servable version label: test"),
        ("m", None, "gone", VersionNotFound, "Servable not found for request: Specific(m, 9)"),
    ],
)
def test_what_is_not_served(
    catalogue: Catalogue, model: str, version: int | None, label: str, error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as raised:
        find(catalogue, Labels(), model, version, label)
    assert str(raised.value) == text


def test_without_a_configuration_there_are_no_labels_and_nothing_to_reload(catalogue: Catalogue) -> None:
    with pytest.raises(InvalidRequest, match="Unrecognized servable version label: production"):
        find(catalogue, NoControl(), "m", None, "production")
    assert list(NoControl().statuses("m")) == []
    with pytest.raises(Conflict, match="--model_config_file"):
        asyncio.run(NoControl().reload(None))


def test_the_states_of_all_versions_the_newest_first() -> None:
    class Some(NoControl):
        def statuses(self, model: str) -> list[VersionStatus]:
            failed = VersionStatus(9, State.END, Code.NOT_FOUND, "no such folder")
            return [failed, VersionStatus(2, State.UNLOADING)] if model == "m" else []

    unread: Any = None
    states = ["ready", "degraded", "loading", "empty", "unloading", "failed"]
    versions = {
        f"{number}.0": ServedVersion(unread, None, VersionState(state), 1, 1, 1, "it is broken")
        for number, state in enumerate(states, 1)
    } | {"odd": ServedVersion(unread, None, VersionState.READY, 1, 1, 1, "")}
    catalogue = Catalogue()
    catalogue.put("m", Model("m", versions, "1.0"))
    models = Models(catalogue, Some())
    assert [(status.name, status.state, status.code, status.message) for status in models.statuses("m")] == [
        ("9", State.END, Code.NOT_FOUND, "no such folder"),
        ("6", State.END, Code.UNKNOWN, "it is broken"),
        ("5", State.UNLOADING, Code.OK, ""),
        ("4", State.START, Code.OK, ""),
        ("3", State.LOADING, Code.OK, ""),
        ("2", State.AVAILABLE, Code.OK, ""),
        ("1", State.AVAILABLE, Code.OK, ""),
        ("odd", State.AVAILABLE, Code.OK, ""),
    ]
    assert [status.name for status in models.statuses("m", "9")] == ["9"]
    assert [status.name for status in models.statuses("m", "odd")] == ["odd"]
    with pytest.raises(VersionNotFound, match="Could not find version 7 of model m"):
        models.statuses("m", "7")
    with pytest.raises(ModelNotFound, match="Could not find any versions of model x"):
        models.statuses("x")
