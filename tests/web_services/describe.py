"""Describes a script's service as a model, and says where:

    python -m tests.web_services.describe STATE SCRIPT ARGUMENT…

In a process of its own, since the script becomes its main module. The server need not be started for each.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pdserver.handlers.pipeline import script
from pdserver.handlers.pipeline.script import Script
from pdserver.pipeline_service import launch


def main(state: Path, path: str, *arguments: str) -> None:
    imports = ["pdserver.compat"] if "paddle_serving_server" in Path(path).read_text() else []
    started = Script(path=path, arguments=list(arguments), directory=str(Path.cwd()), imports=imports)
    service = script.run(started)
    print(launch.describe(service, started, state) / service.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
