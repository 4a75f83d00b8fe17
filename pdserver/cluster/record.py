"""What a user's next commands need to know of the cluster that was started last."""

from __future__ import annotations

from pathlib import Path

import msgspec

from pdarchiver.staging import staged_file
from pdserver.cluster.local import LocalMachines
from pdserver.errors import ConfigError
from pdserver.system.folders import make_folder


class Record(msgspec.Struct, frozen=True):
    """Of a cluster."""

    cluster: str
    """Its id."""
    address: str
    """Of the Ray cluster."""
    machines: LocalMachines | None = None
    """Those that were begun for it."""


def path_in(state: Path) -> Path:
    return state / "cluster" / "cluster.json"


def read(state: Path) -> Record | None:
    """The last cluster that was started; None: there was none."""
    try:
        return msgspec.json.decode(path_in(state).read_bytes(), type=Record)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{path_in(state)}: can't be read: {error}: remove it") from None


def write(state: Path, record: Record) -> None:
    """Raises ConfigError."""
    path = path_in(state)
    try:
        make_folder(path.parent, 0o700)
        with staged_file(path) as stage:
            stage.write_bytes(msgspec.json.encode(record))
    except OSError as error:
        raise ConfigError(
            f"state_location={state}: {error.strerror}: name a folder that this user may write to"
        ) from None
