"""What a URL of a prediction names: /v1/models/{model}[/versions/{version}|/labels/{label}]:{verb}."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal, NamedTuple
from urllib.parse import unquote_to_bytes

from pdserver.errors import InvalidRequest

Verb = Literal["predict", "classify", "regress", "explain"]
_TARGET = re.compile(
    rb"/v1/models/(?P<model>[^/:?]*?)(?:/(?P<kind>versions|labels)/(?P<which>[^/:?]+?))?(?::|%3a)"
    rb"(?P<verb>predict|classify|regress|explain)/?(?:\?.*)?",
    re.DOTALL | re.IGNORECASE,
)


class Target(NamedTuple):
    model: str
    version: str
    """As it is written; empty: none."""
    label: str
    verb: Verb


@lru_cache(maxsize=1024)
def parse_target(target: bytes) -> Target | None:
    """None for a URL that is no prediction. Raises InvalidRequest for one that is not UTF-8, or names no model."""
    found = _TARGET.fullmatch(target)
    if found is None:
        return None
    try:
        model, which = (unquote_to_bytes(part or b"").decode() for part in (found["model"], found["which"]))
    except UnicodeDecodeError:
        raise InvalidRequest("the URL is not UTF-8") from None
    if not model:
        raise InvalidRequest("Missing model name in request.")
    verb: Verb = found["verb"].decode().lower()  # type: ignore[assignment]  # the pattern has no others
    by_label = (found["kind"] or b"").lower() == b"labels"
    return Target(model, "" if by_label else which, which if by_label else "", verb)


def kserve_target(target: bytes) -> tuple[str, str | None, Literal["predict", "explain"]] | None:
    """The model, version and verb of a prediction that is asked by KServe's rules. Raises as `parse_target` does."""
    named = parse_target(target)
    if named is None:
        return None
    return named.model, named.version or None, "explain" if named.verb == "explain" else "predict"
