"""What a test has made pdserver log."""

from __future__ import annotations

import logging
import threading

import pytest


def own_records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Those of pdserver in this thread. Others come at any time, from libraries and from what other tests have left."""
    here = threading.get_ident()
    return [record for record in caplog.records if record.name.startswith("pdserver") and record.thread == here]
