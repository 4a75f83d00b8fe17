"""Pages that a main process and its front ends share."""

from __future__ import annotations

import os

from pdserver.system import shared_page
from pdserver.system.shared_page import SharedPage


def pages(count: int) -> list[SharedPage]:
    """Of the main process and its front ends. Each maps the file by itself, as in a process of its own."""
    main = shared_page.make(count)
    try:
        return [main, *(SharedPage(main.fd, number) for number in range(1, count))]
    finally:
        os.close(main.fd)
