"""What a node answers → the values of its outputs."""

from __future__ import annotations

import pytest

from pdserver.configuration.model import ModelSpec
from pdserver.errors import HandlerFailed
from pdserver.pipeline.asking import to_code
from pdserver.types import Part, Request, Values


@pytest.mark.parametrize(
    ("outputs", "answered", "refusal"),
    [
        (("boxes", "turned"), ("boxes", "turned"), ""),
        (("boxes", "turned"), ("boxes",), ""),
        (("boxes",), ("boxes", "more"), ""),
        ((), ("anything",), ""),
        (
            ("boxes", "turned"),
            ("boxs", "turned"),
            'it answered "boxs", which is none of its outputs, and not "boxes"; did you mean boxes?',
        ),
    ],
)
def test_a_slip_in_the_name_of_an_output_is_told(
    outputs: tuple[str, ...], answered: tuple[str, ...], refusal: str
) -> None:
    spec = ModelSpec(
        name="p:find", version="1", url="", directory="", handler="", manifest={}, model_config={}, min_workers=1,
        max_workers=1,
    )  # fmt: skip
    question = to_code({}, spec, Request("p", None, "", []), outputs)
    reply = Values(b"", "", parts=[Part(name, "", b"") for name in answered])
    if not refusal:
        assert tuple(question.values(reply)) == answered
        return
    with pytest.raises(HandlerFailed) as raised:
        question.values(reply)
    assert str(raised.value) == refusal
