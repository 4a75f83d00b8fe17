"""How a front end counts the requests that it has passed on to other servers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from pdserver.front_ends.messages import Forwarded


class ForwardedCounts(Counter[tuple[str, str]]):
    """By server and outcome. What is added is said at once to the main process, which has the sums."""

    def __init__(self, say: Callable[[Forwarded], None]) -> None:
        super().__init__()
        self._say = say

    def __setitem__(self, key: tuple[str, str], count: int) -> None:
        self._say(Forwarded(*key, count - self[key]))
        super().__setitem__(key, count)
