"""Answers with the priorities that it has, and had while it loaded; so do a thread and a process begun then."""

import os
import subprocess
import threading
from typing import Any


class Polite:
    def initialize(self, context: Any) -> None:
        self._loading = os.getpriority(os.PRIO_PROCESS, 0)
        self._thread = threading.Thread(target=threading.Event().wait, daemon=True)
        self._thread.start()
        self._process = subprocess.Popen(["sleep", "1000"])

    def handle(self, data: Any, context: Any) -> Any:
        tasks = (os.getpid(), self._thread.native_id, self._process.pid)
        serving = [os.getpriority(os.PRIO_PROCESS, task or 0) for task in tasks]
        return [{"loading": self._loading, "serving": serving}] * len(data)
