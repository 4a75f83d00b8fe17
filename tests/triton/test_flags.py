"""Triton's own flags are answered with the name of ours."""

from __future__ import annotations

import re

import pytest

from pdserver.cli import main
from pdserver.configuration.server import KEYS
from pdserver.triton.flags import ANSWERS
from tests.triton.test_page import PAGE

OURS = {*(key.flag for key in KEYS.values()), "--foreground"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--http-port", "8000"], ["--http-port is Triton's; here: --oip-address http://127.0.0.1:8000"]),
        (["--log-verbose=1", "--strict-model-config=false"], ["here: --log-config FILE", "here: leave it out: what"]),
        (["--cache-config", "local,size=1048576"], ["here: --response-cache-bytes"]),
    ],
)
def test_a_flag_of_tritons_is_answered_with_ours(
    arguments: list[str], words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["--start", "--model-repository", "models", *arguments]) == 2
    said = capfd.readouterr().err.splitlines()
    assert len(said) == len(words)
    assert all(word in line for word, line in zip(words, said, strict=True))


def test_answers_name_flags_that_there_are() -> None:
    assert ANSWERS.keys().isdisjoint(OURS)
    for flag, answer in ANSWERS.items():
        assert set(re.findall(r"--[a-z-]+", answer)) <= OURS, flag
        assert answer.startswith(("leave it out: ", "--", "tokens have scopes: ")) or "POST" in answer


@pytest.mark.parametrize("flag", [flag for flag, answer in ANSWERS.items() if answer.startswith("--")])
def test_each_flag_with_one_of_ours_is_on_the_page(flag: str) -> None:
    assert f"`{flag}`" in PAGE
