"""What docs/pipelines.md shows is a pipeline, and it has every key. Its commands are run by test_docs_commands.py."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from pdarchiver.pipeline import reading
from pdarchiver.pipeline.graph import CONTRACTS

PAGE = (Path(__file__).parents[3] / "docs/pipelines.md").read_text()
NODES = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("nodes", NODES)
def test_the_nodes_are_read(nodes: str) -> None:
    text = "inputs: {image: bytes}\noutputs: {image: image}\nnodes:\n" + textwrap.indent(nodes, "  ")
    assert reading.read(text.encode(), "p.yaml").graph.nodes


def test_every_key_and_contract_is_there() -> None:
    words = {word for span in re.findall(r"`([^`\n]+)`", PAGE) for word in re.findall(r"[\w/-]+", span)}
    keys = {
        *reading.TOP_KEYS,
        *reading.BODIES,
        *reading.NODE_KEYS,
        *(key for own in reading.OWN_KEYS.values() for key in own),
    }
    assert {*keys, *CONTRACTS, "while", "at_most", "carry", "from", "optional"} <= words
