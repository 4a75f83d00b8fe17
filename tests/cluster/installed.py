"""Installations of pdserver, of several versions, each in a folder that Python's path names."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import shutil
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def release(folder: Path, version: str) -> Path:
    """A folder with this source tree as another version of pdserver."""
    made = folder / version
    for package in ("pdarchiver", "pdserver"):
        shutil.copytree(REPOSITORY / package, made / package, ignore=shutil.ignore_patterns("__pycache__"))
    installed = importlib.metadata.distribution("pdserver")
    text = installed.read_text("METADATA") or installed.read_text("PKG-INFO") or ""
    own = made / f"pdserver-{version}.dist-info"
    own.mkdir()
    (own / "METADATA").write_text(re.sub(r"^Version: .*$", f"Version: {version}", text, count=1, flags=re.MULTILINE))
    return made


def add_fields(module: Path) -> None:
    """Give all structs and messages of a module one more field, which has a default."""
    lines = module.read_text().splitlines()
    classes = [node for node in ast.parse("\n".join(lines)).body if isinstance(node, ast.ClassDef)]
    for node in reversed(classes):
        if {"Message", "msgspec.Struct"} & set(map(ast.unparse, node.bases)):
            last = max(each.end_lineno or 0 for each in node.body if isinstance(each, ast.AnnAssign))
            lines.insert(last, '    later: str = "later"')
    module.write_text("\n".join(lines))


class Installation:
    """What `pip install` writes to: one version at a time, which running processes may find replaced."""

    def __init__(self, folder: Path, version: Path) -> None:
        folder.mkdir(parents=True)
        self.path = folder / "site"
        """For PYTHONPATH."""
        self.install(version)

    def install(self, version: Path) -> None:
        new = self.path.with_name("new")
        new.symlink_to(version)
        new.replace(self.path)
