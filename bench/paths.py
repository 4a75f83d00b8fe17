"""Paths. What the comparisons build is kept between runs and is not committed."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVS = ROOT / "bench" / "envs"
"""A virtual environment for each peer."""
WORK = ROOT / "bench" / "work"
"""Models, archives and logs."""
