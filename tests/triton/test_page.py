"""docs/from-triton.md says what becomes of every field of a configuration."""

from __future__ import annotations

import re
from pathlib import Path

from pdserver.triton.complete import _IGNORED, _ODD_INPUTS, _REFUSED
from pdserver.triton.model_config import ModelConfig

PAGE = (Path(__file__).parents[2] / "docs" / "from-triton.md").read_text()
NAMED = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)))))


def test_every_field_is_on_the_page() -> None:
    fields = {field.name for field in ModelConfig.DESCRIPTOR.fields}
    assert fields - NAMED == set()


def test_what_is_refused_and_what_has_no_effect() -> None:
    table = PAGE.partition("| Where | Triton | Here |")[2]
    refused, ignored = (next(row for row in table.splitlines() if word in row) for word in ("refused", "one warning"))
    assert all(f"`{field}`" in refused for field in _REFUSED)
    assert all(f"`{field}`" in ignored for field in (*_IGNORED, *_ODD_INPUTS))
