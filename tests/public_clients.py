"""What the public clients of other servers need, which have environments of their own in build/."""

from __future__ import annotations

import fcntl
import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def given_by(
    python: Path | str,
    script: str,
    arguments: Sequence[object],
    environment: Mapping[str, str],
    *,
    folder: Path | None = None,
    seconds: float,
) -> Any:
    """What the script writes, as JSON, to the file that the variable GIVE_TO names. It runs in `folder`, or in one that
    is removed afterwards."""
    with tempfile.TemporaryDirectory() as temporary:
        given, file = Path(temporary, "given.json"), Path(temporary, "script.py")
        file.write_text(script)
        done = subprocess.run(
            [str(python), "-W", "ignore", str(file), *map(str, arguments)],
            cwd=folder or temporary,
            env={**environment, "GIVE_TO": str(given)},
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        said = f"exit status {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert done.returncode == 0, said
        assert given.exists(), f"nothing was given: {said}"
        return json.loads(given.read_text())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Against other processes of tests, which make this folder, too."""
    folder.parent.mkdir(exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
