"""`python helm.py FOLDER CHART`: Helm's own SDK, which is in FOLDER, renders a chart for the values on stdin (JSON).

Writes JSON: {"lint": findings, "manifests": {path: text}} or {"refused": why}. It is a process of its own, since the
SDK is a library in Go.
"""

from __future__ import annotations

import json
import sys

sys.path.insert(0, sys.argv[1])

import helm_python

values = json.load(sys.stdin)
given: dict[str, object] = {"lint": helm_python.lint(sys.argv[2])}
try:
    with helm_python.Chart.load(sys.argv[2]) as chart:
        chart.validate_schema(values)
        given["manifests"] = chart.render(values, name="demo", namespace="prod")
except helm_python.HelmError as error:
    given["refused"] = str(error)
json.dump(given, sys.stdout)
