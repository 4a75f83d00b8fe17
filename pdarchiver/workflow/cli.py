"""The command `pd-workflow-archiver`, with the flags of torch-workflow-archiver."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pdarchiver import display
from pdarchiver.usage import Parser, build_date, run_command
from pdarchiver.workflow.pack import WorkflowOptions, pack

_PROG = "pd-workflow-archiver"
_EPILOG = """\
example:
  pd-workflow-archiver --workflow-name reading --spec-file reading.yaml --handler functions.py --export-path workflows

exit status: 0 done, 1 the workflow is not in order (the reason is on stderr), 2 wrong use of the command
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command with `argv` (default: the process's own) and return its exit status."""
    return run_command(_PROG, lambda: _pack(sys.argv[1:] if argv is None else argv))


def _pack(args: Sequence[str]) -> None:
    options = vars(_parser().parse_args(args))
    items = [item for group in options.pop("extra_files") for item in group.split(",") if item]
    path, workflow = pack(WorkflowOptions(**options, extra_files=tuple(items), created_on=build_date()))
    nodes = ", ".join(node.name for node in workflow.nodes)
    print(f"wrote {path} ({display.size(path.stat().st_size)}): {nodes}")


def _parser() -> Parser:
    parser = Parser(
        prog=_PROG,
        usage=f"{_PROG} --workflow-name NAME --spec-file YAML [--handler FILE] [option …]",
        description="Pack a workflow: models and functions that answer one request.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("--workflow-name", required=True, metavar="NAME", help="letters, digits, '.', '_' and '-'; the archive's, too")
    add(
        "--spec-file", type=Path, required=True, metavar="YAML", help="which models and functions it has, and their DAG"
    )
    add("--handler", type=Path, metavar="FILE", help="the Python file with the workflow's functions")
    add(
        "--extra-files",
        action="append",
        default=[],
        metavar="LIST",
        help="files, folders and globs that the functions need, separated by commas",
    )
    add(
        "--export-path",
        type=Path,
        default=WorkflowOptions.export_path,
        metavar="FOLDER",
        help="where to write; default: the working directory",
    )
    add("-f", "--force", action="store_true", help="replace what an earlier run wrote")
    return parser
