"""Says what it finds around it, and the headers of each request."""

import os
import resource
import subprocess
import tempfile
from pathlib import Path
from typing import Any


def handle(data: list[dict[str, Any]] | None, context: Any) -> Any:
    if data is None:
        return None
    limits = {
        name: resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}")) for name in ("nofile", "fsize", "core")
    }
    found = {
        "environment": dict(os.environ),
        "descriptors": descriptors(),
        "pid": os.getpid(),
        "session": os.getsid(0),
        "group": os.getpgid(0),
        "limits": limits,
        "working_folder": str(Path.cwd()),
        "model_folder": context.system_properties["model_dir"],
        "temporary": tempfile.gettempdir(),
        "shell": subprocess.run(["sh", "-c", "printf %s $TMPDIR"], capture_output=True, check=True, text=True).stdout,
    }
    return [{**found, "headers": context.get_all_request_header(index)} for index in range(len(data))]


def descriptors() -> list[str]:
    found = []
    for path in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(path.readlink()))
        except OSError:  # the folder itself
            continue
    return [name for name in found if not name.endswith("/fd")]
