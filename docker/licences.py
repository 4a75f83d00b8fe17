"""`licences.py SITE FILE`: write the licences of the Python packages that are installed in SITE to FILE.

The packages' own texts are beside them, in SITE/*.dist-info; those of Debian's packages are in /usr/share/doc.
"""

from __future__ import annotations

import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path


def licence(package: Distribution) -> str:
    """As its metadata have it; its texts, if that says nothing."""
    metadata = package.metadata
    said = metadata.get("License-Expression") or metadata.get("License") or ""
    classes = [line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier", []) if line.startswith("License")]
    texts = [str(file) for file in package.files or [] if "LICEN" in file.name.upper()]
    first = said.strip().splitlines()[:1]
    return "".join(first) if first and len(first[0]) < 100 else ", ".join(classes or texts)


def main(site: str, file: str) -> None:
    found = {str(each.metadata["Name"]): each for each in distributions(path=[site])}
    lines = [f"{name} {found[name].version}: {licence(found[name])}" for name in sorted(found, key=str.lower)]
    if unknown := [line for line in lines if line.endswith(": ")]:
        sys.exit("licences.py: these packages name no licence:\n" + "\n".join(unknown))
    Path(file).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
