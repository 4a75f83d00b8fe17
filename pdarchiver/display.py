"""Shows an archive: as JSON, as plain text for a pipe, or with rich for a terminal."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from pdarchiver.archive import ArchiveInfo
from pdarchiver.manifest import EngineFile, TensorSpec
from pdarchiver.optimize import Optimized
from pdarchiver.pipeline import display


def size(size_bytes: int) -> str:
    """A number of bytes for people: 712 B, 12.3 kB, 1.5 GB."""
    value, units = float(size_bytes), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.95 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{size_bytes} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def optimized(done: Optimized) -> str:
    """What `optimize` did, for people."""
    if done.made is None:
        return f"made nothing for other engines: {done.reason}"
    return f"put {_made(done.made)} into {done.path}"


def as_json(path: Path, info: ArchiveInfo) -> str:
    files = [
        {"path": entry.path, "sizeBytes": entry.size_bytes, "packedBytes": entry.packed_bytes}
        for entry in info.entries
        if not entry.folder
    ]
    shown = {
        "archive": str(path),
        "format": info.format,
        "sizeBytes": info.size_bytes,
        "manifest": info.manifest.raw,
        "entries": files,
    }
    if info.pipeline is not None:
        shown["pipeline"] = display.as_json(info.pipeline)
    return json.dumps(shown, indent=2, ensure_ascii=False)


def as_text(path: Path, info: ArchiveInfo) -> str:
    """One fact or file in each line, with at least two spaces between columns."""
    lines = [f"{label:<10}{value}" for label, value in _facts(path, info)]
    for side, specs in _sides(info):
        lines += [f"{side:<10}{'  '.join(_spec_columns(spec))}".rstrip() for spec in specs]
    if info.pipeline is not None:
        lines += [f"{label:<10}{value}" for label, value in display.lines(info.pipeline)]
    lines += [f"{size(entry.size_bytes):>8}  {entry.path}" for entry in info.entries if not entry.folder]
    return "\n".join(lines)


def print_rich(path: Path, info: ArchiveInfo) -> None:
    # Everything from the archive is passed as Text: in a str, "[bold]" would be markup.
    facts = Table.grid(padding=(0, 2))
    for label, value in _facts(path, info):
        facts.add_row(Text(label, "dim"), Text(value))
    tensors = Table("", "name", "type", "in the model", box=None, header_style="dim", padding=(0, 2, 0, 0))
    for side, specs in _sides(info):
        for spec in specs:
            tensors.add_row(Text(side, "dim"), *map(Text, _spec_columns(spec)))
    nodes = []
    if info.pipeline is not None:
        nodes.append(display.tree(info.pipeline))
        for label, value in display.lines(info.pipeline):
            if label != "node":
                facts.add_row(Text(label, "dim"), Text(value))
    Console().print(Group(facts, *([tensors] if tensors.row_count else []), *nodes, _tree(path, info)))


def _tree(path: Path, info: ArchiveInfo) -> Tree:
    root = Tree(Text(path.name, "bold"))
    branches = {"": root}
    for entry in sorted(info.entries, key=lambda entry: entry.path):
        folders = entry.path.split("/") if entry.folder else entry.path.split("/")[:-1]
        for depth in range(len(folders)):
            above, folder = "/".join(folders[:depth]), "/".join(folders[: depth + 1])
            if folder not in branches:
                branches[folder] = branches[above].add(Text(folders[depth] + "/", "bold"))
        if not entry.folder:
            label = Text(entry.path.rpartition("/")[2]).append(f"  {size(entry.size_bytes)}", "dim")
            branches["/".join(folders)].add(label)
    return root


def _facts(path: Path, info: ArchiveInfo) -> list[tuple[str, str]]:
    manifest = info.manifest
    facts = [
        ("archive", f"{path}  {info.format}, {size(info.size_bytes)}"),
        ("model", f"{manifest.model_name or '(not named)'}  version {manifest.model_version}"),
        *(display.facts(info.pipeline) if info.pipeline else [("handler", manifest.handler)]),
    ]
    facts += [("engine", _made(engine)) for engine in manifest.engines]
    return facts if manifest.has_checksums else [*facts, ("checksums", "none in the manifest")]


def _sides(info: ArchiveInfo) -> list[tuple[str, tuple[TensorSpec, ...]]]:
    signature = info.manifest.signature
    return [("input", signature.inputs), ("output", signature.outputs)] if signature else []


def _spec_columns(spec: TensorSpec) -> tuple[str, str, str]:
    return spec.name, f"{spec.dtype}{list(spec.shape)}", spec.source if spec.source != spec.name else ""


def _made(engine: EngineFile) -> str:
    versions = ", ".join(f"{package} {version}" for package, version in engine.made_by.items())
    return f"{engine.file} (made by {versions})" if versions else engine.file
