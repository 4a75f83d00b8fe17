"""What the machine and the environment have that matters to a server. Paddle is not imported here."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

import msgspec
import psutil

from pdserver import __version__
from pdserver.configuration.server import Config
from pdserver.configuration.values import Address
from pdserver.store.run_directory import PidFile, state_folder
from pdserver.system.devices import core_count, cpu_flags, gpu_count

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - nothing is written to it
_MATTERING_FLAGS = ("avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
_ENOUGH_FILES = 4096
_PROXIED = ("http", "https", "all")
_ENGINES = ("openvino", "onnxruntime")
_HERE = ("localhost", "127.0.0.1")


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    name: str
    value: str
    problem: str = ""
    """What is wrong and how to mend it; empty if all is well."""


def look(config: Config, environment: Mapping[str, str]) -> Iterator[Finding]:
    """All findings that need no Paddle. `config` names the ports."""
    yield Finding("python", f"{platform.python_version()} ({sys.executable})")
    yield Finding("pdserver", __version__)
    yield _engines()
    yield _cpu()
    yield Finding("cores", f"{core_count()} for this process, {os.cpu_count()} in the machine")
    yield _front_ends(config)
    memory = psutil.virtual_memory()
    yield Finding("memory", f"{_gib(memory.available)} free of {_gib(memory.total)}")
    yield Finding("gpus", f"{gpu_count()} with NVIDIA's driver")
    yield _shared_memory()
    yield _open_files()
    yield from _ports(config)
    yield _proxies(environment)


def _engines() -> Finding:
    """Those beside Paddle, which is looked at by its own process."""
    found = []
    for name in _ENGINES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return Finding("other engines", ", ".join(found) or "none: Paddle runs all models")


def _cpu() -> Finding:
    known = cpu_flags()
    flags = [flag for flag in _MATTERING_FLAGS if flag in known]
    has_avx = "avx" in flags or platform.machine() not in ("x86_64", "AMD64")
    problem = "" if has_avx else "Paddle needs AVX, which this CPU lacks or the virtual machine hides: let it show AVX"
    return Finding("cpu", f"{platform.machine()} {' '.join(flags) or 'without AVX'}", problem)


def _front_ends(config: Config) -> Finding:
    wanted, cores = config.front_ends, core_count()
    problem = ""
    if wanted > max(1, cores):
        problem = f"front_ends={wanted}: {cores} cores run no more than {cores} at a time: lower it, or set it to auto"
    said = f"{wanted} processes" if wanted > 1 else "none apart: the main process answers on all ports"
    return Finding("front ends", said, problem)


def _shared_memory() -> Finding:
    try:
        free = shutil.disk_usage(_SHARED_MEMORY).free
    except OSError as error:
        return Finding("shared memory", "none", f"{_SHARED_MEMORY}: {error.strerror}: mount a tmpfs there")
    if os.access(_SHARED_MEMORY, os.W_OK):
        return Finding("shared memory", f"{_gib(free)} free in {_SHARED_MEMORY}")
    return Finding("shared memory", "can't be written", f"chmod 1777 {_SHARED_MEMORY}, or mount a tmpfs there")


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    endless = hard == resource.RLIM_INFINITY
    problem = (
        ""
        if endless or hard >= _ENOUGH_FILES
        else (f"each connection is an open file: raise the limit to {_ENOUGH_FILES} or more (ulimit -Hn, LimitNOFILE)")
    )
    return Finding("open files", f"{soft}, can be raised to {'any number' if endless else hard}", problem)


def _ports(config: Config) -> Iterator[Finding]:
    """For each port, whether it is free. One that a server of this user has is no fault."""
    state = state_folder(config.state_location, config.xdg_state_home)
    process = PidFile.of(state, config.management_address).process()
    for key, address in config.addresses.items():
        name = f"port {address.port or 'any'}"
        if _is_free(address):
            yield Finding(name, f"free ({key})")
        elif process is not None:
            yield Finding(name, f"in use by pdserver, pid {process.pid} ({key})")
        else:
            yield Finding(name, f"in use ({key})", f"stop what uses it, or set {key} to another")


def _is_free(address: Address) -> bool:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except socket.gaierror:
        return False
    for family, kind, protocol, _, where in found:
        with socket.socket(family, kind, protocol) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(where)
            except OSError:
                return False
    return True


def _proxies(environment: Mapping[str, str]) -> Finding:
    """Whether the environment sends clients of this machine's own server to a proxy."""
    given = {
        scheme: environment.get(f"{scheme}_proxy") or environment.get(f"{scheme.upper()}_PROXY") for scheme in _PROXIED
    }
    names = [f"{scheme}_proxy" for scheme, proxy in given.items() if proxy]
    if not names:
        return Finding("proxies", "none")
    direct = [
        name.strip().lower() for name in (environment.get("no_proxy") or environment.get("NO_PROXY") or "").split(",")
    ]
    caught = [] if "*" in direct else [host for host in _HERE if host not in direct]
    problem = ""
    if caught:
        problem = f"clients on this machine ask the proxy for {caught[0]}: export no_proxy={','.join(_HERE)}"
    return Finding("proxies", ", ".join(names), problem)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
