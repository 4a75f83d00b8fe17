"""Packages as pip installs them, for what the server finds by entry points."""

from __future__ import annotations

from pathlib import Path


def install(folder: Path, name: str, code: str, entry_points: str) -> Path:
    """Put a package of one module, and the metadata that pip would write, into `folder`. Gives the folder."""
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (folder / f"{name}.py").write_text(code)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(entry_points)
    return folder
