"""What a worker finds around it: variables, a folder for temporary files, and limits.

Handlers and their many dependencies may be careless, so they must not see the server's own secrets, such as tokens and
cloud credentials. Workers see the variables that programs commonly need, and those that the operator names.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from pdserver.system.folders import make_folder

_COMMON = re.compile(
    "PATH|HOME|USER|LOGNAME|SHELL|PWD|HOSTNAME|TERM|TZ|TZDIR|LANG|LANGUAGE|LC_.*|COLUMNS|TMPDIR|TEMP|TMP|XDG_.*"
    "|LD_LIBRARY_PATH|LD_PRELOAD|GLIBC_TUNABLES|MALLOC_.*|PYTHON.*|VIRTUAL_ENV|CONDA_PREFIX"
    "|SSL_CERT_FILE|SSL_CERT_DIR|REQUESTS_CA_BUNDLE"
    "|OMP_.*|GOMP_.*|KMP_.*|MKL_.*|OPENBLAS_.*|DNNL_.*|ONEDNN_.*|OPENCV_.*|CPU_NUM|FLAGS_.*|GLOG_.*|PADDLE_.*"
    "|CUDA_.*|NVIDIA_.*|CUDNN_.*|NCCL_.*|HIP_.*|ROCR_.*|XPU_.*|ASCEND_.*"
)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_SECRET = re.compile(r".*(TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|PRIVATE).*", re.IGNORECASE)


class WorkerEnvironment(msgspec.Struct, frozen=True):
    """What all workers of a server get."""

    temporary: str
    """A folder that only the server's user may enter. Each worker has its own folder in it."""
    visible: re.Pattern[str] | None = None
    """Variables that workers see besides the common ones."""
    hidden: re.Pattern[str] | None = None
    """Variables that workers do not see."""
    limits: Mapping[str, int] = {}
    """Limits of each worker by the names in `configuration.values.LIMIT_NAMES`, in getrlimit(2)'s units."""

    def variables(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The variables of `environment` that workers see."""
        seen = {name: value for name, value in environment.items() if self._is_seen(name)}
        return {**seen, "TMPDIR": self.temporary}

    def _is_seen(self, name: str) -> bool:
        if self.hidden is not None and self.hidden.fullmatch(name):
            return False
        if self.visible is not None and self.visible.fullmatch(name):
            return True
        return _COMMON.fullmatch(name) is not None and not _SECRET.fullmatch(name)


def enter(temporary: str, limits: Mapping[str, int]) -> None:
    """Apply the folder and the limits to this process, a worker. Raises OSError, ValueError."""
    make_folder(Path(temporary), 0o700)
    os.environ["TMPDIR"] = temporary
    tempfile.tempdir = temporary
    be_somewhere(temporary)
    for name, value in limits.items():
        number = getattr(resource, f"RLIMIT_{name.upper()}")
        _, hard = resource.getrlimit(number)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (value, value))


def let_have_threads(model_config: Mapping[str, Any]) -> None:
    """Set the number of threads for engines that the handler may bring. Call this before they are imported."""
    section = model_config.get("predictor")
    threads = section.get("threads") if isinstance(section, dict) else None
    if isinstance(threads, int) and threads > 1:
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))


def be_somewhere(folder: str) -> None:
    """Change to `folder` if the working directory is gone: Paddle and other packages read it when imported."""
    try:
        os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        os.chdir(folder)


def leave(temporary: str) -> None:
    """Remove the folder of a worker that has ended."""
    with contextlib.suppress(OSError):
        shutil.rmtree(temporary)
