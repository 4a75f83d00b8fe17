"""No deserialisation of code, no shell and no memory by name in this project; and the check that says so can see."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.security.forbidden import find

ROOT = Path(__file__).parent.parent.parent
FILES = sorted(path for package in ("pdarchiver", "pdserver") for path in (ROOT / package).rglob("*.py"))
ALLOWED = {
    # The weights of a model that comes as Python code: whoever packs them also packs code that runs.
    "pdserver/handlers/runtime/eager.py": {"paddle.load: a pickle"},
    # The server shakes hands with itself, in memory, to see whether its own certificate is valid.
    "pdserver/security/tls.py": {"check_hostname=False"},
    # A client that is told, in so many words, to believe any server.
    "pdserver/client/rest.py": {"check_hostname=False", "ssl.CERT_NONE"},
    # A node asks its own child process, at a port of its own machine, which that process holds.
    "pdserver/cluster/server_process.py": {"check_hostname=False", "ssl.CERT_NONE"},
}
CONTROLS = """
eval("1")
exec(data)
compile(data, "", "exec")
import builtins; builtins.eval("1")
__import__("pickle")
import pickle
from pickle import loads
import _pickle as p
import marshal
import shelve
import dill
import cloudpickle
import joblib
import importlib; importlib.import_module("pickle")
from multiprocessing import shared_memory
from multiprocessing.shared_memory import SharedMemory
import multiprocessing.shared_memory
import posix_ipc
import yaml; yaml.load(data)
import yaml; yaml.load(data, yaml.Loader)
import yaml; yaml.load(data, Loader=yaml.FullLoader)
import yaml; yaml.unsafe_load(data)
from yaml import full_load; full_load(data)
from yaml import load as read; read(data, Loader)
import numpy as np; np.load(file)
import numpy; numpy.load(file, allow_pickle=False)
from numpy import load; load(file)
reader(file, allow_pickle=True)
reader(file, allow_pickle=wanted)
import subprocess; subprocess.run("ls", shell=True)
import subprocess; subprocess.Popen(command, shell=wanted)
import subprocess; subprocess.getoutput("ls")
import os; os.system("ls")
from os import popen; popen("ls")
import asyncio; asyncio.create_subprocess_shell("ls")
loop.subprocess_shell(protocol, "ls")
import tempfile; tempfile.mktemp()
import hashlib; hashlib.md5(data)
from hashlib import sha1; sha1(data)
import hashlib; hashlib.new("md5", data)
import ssl; ssl._create_unverified_context()
import ssl; context.verify_mode = ssl.CERT_NONE
context.check_hostname = False
requests.get(url, verify=False)
import ast; ast.literal_eval(text)
import tarfile; tarfile.open(path).extractall(folder)
import paddle; paddle.load(path)
import torch; torch.load(path)
""".strip().splitlines()
HARMLESS = """
import re; re.compile("a")
model.eval()
import yaml; yaml.safe_load(data)
import yaml; yaml.load(data, yaml.SafeLoader)
import hashlib; hashlib.sha256(data)
import hashlib; hashlib.md5(data, usedforsecurity=False)
import subprocess; subprocess.run(["ls"], shell=False)
import importlib; importlib.import_module("json")
import ssl; ssl.create_default_context()
import json; json.load(file)
import tempfile; tempfile.mkdtemp()
""".strip().splitlines()


def test_nothing_forbidden() -> None:
    forbidden = []
    for path in FILES:
        name = str(path.relative_to(ROOT))
        forbidden += [(name, found) for found in find(path.read_text()) if found.what not in ALLOWED.get(name, set())]
    assert not forbidden


@pytest.mark.parametrize("source", CONTROLS)
def test_what_the_check_sees(source: str) -> None:
    assert list(find(source))


@pytest.mark.parametrize("source", HARMLESS)
def test_what_the_check_lets_pass(source: str) -> None:
    assert not list(find(source))


def test_a_loader_of_our_own_is_judged_by_its_base() -> None:
    safe = "import yaml\nclass L(yaml.SafeLoader): pass\nclass M(L): pass\nk = M if x else L\nyaml.load(data, k)"
    assert not list(find(safe))
    assert list(find(safe.replace("SafeLoader", "Loader")))


def test_what_is_allowed_is_there() -> None:
    for name, allowed in ALLOWED.items():
        assert {found.what for found in find((ROOT / name).read_text())} == allowed
