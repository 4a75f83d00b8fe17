"""The command `pd-model-archiver`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pdarchiver import archive, display, to_onnx
from pdarchiver.convert import ConvertOptions, convert, show
from pdarchiver.errors import PackingError
from pdarchiver.handler import BUILT_IN_HANDLERS
from pdarchiver.manifest import RUNTIMES
from pdarchiver.optimize import optimize
from pdarchiver.pack import ARCHIVE_FORMATS, PackOptions, pack
from pdarchiver.pipeline import display as pipelines
from pdarchiver.pipeline.inside import with_outputs
from pdarchiver.pipeline.packing import PipelineOptions, pack_pipeline
from pdarchiver.usage import Parser, build_date, run_command

_PROG = "pd-model-archiver"
_OF_MODELS = ("handler", "serialized_file", "params_file", "model_file")
"""Flags that have no meaning for a pipeline."""
_EPILOG = """\
examples:
  pd-model-archiver --model-name price --version 1.0 --serialized-file model/inference.json --export-path model_store
  pd-model-archiver --model-name cats --version 2.0 --serialized-file exported/ --handler image_classifier \\
                    --extra-files index_to_name.json --config-file cats.yaml
  pd-model-archiver --model-name ocr --version 1.0 --pipeline ocr/pipeline.yaml --export-path model_store
  pd-model-archiver inspect model_store/price.pdar
  pd-model-archiver verify model_store/price.pdar
  pd-model-archiver convert --dirname exported/ --feed_alias_names features --fetch_alias_names price

exit status: 0 done, 1 the model or archive is not in order (the reason is on stderr), 2 wrong use of the command
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command with `argv` (default: the process's own) and return its exit status."""
    args = sys.argv[1:] if argv is None else argv
    return run_command(_PROG, lambda: _run(args))


def _run(args: Sequence[str]) -> None:
    if args[:1] == ["inspect"]:
        _inspect(args[1:])
    elif args[:1] == ["verify"]:
        _verify(args[1:])
    elif args[:1] == ["convert"]:
        _convert(args[1:])
    else:
        _pack(args)


def _pack(args: Sequence[str]) -> None:
    parser = _parser()
    if args and args[-1] in ("-v", "--version"):
        parser.error("--version: expected the model's version, such as 1.0; pdserver --version says this tool's own")
    options = vars(parser.parse_args(args))
    items = [item for group in options.pop("extra_files") for item in group.split(",") if item]
    wants_engines = options.pop("optimize")
    options |= {"extra_files": tuple(items), "created_on": build_date()}
    of_models = {name: options.pop(name) for name in _OF_MODELS}
    if options["pipeline"] is not None:
        if given := [name for name in _OF_MODELS if of_models[name] is not None]:
            flag = given[0].replace("_", "-")
            parser.error(f"--{flag}: has no meaning beside --pipeline, whose nodes name models and code")
        if wants_engines:
            parser.error("--optimize: has no meaning beside --pipeline; use it for the models that are packed into it")
        _pack_pipeline(PipelineOptions(**options))
        return
    del options["pipeline"]
    if wants_engines:
        if of_models["serialized_file"] is None:
            parser.error("--optimize: needs --serialized-file, the model to convert")
        to_onnx.check_installed()
    path = pack(PackOptions(**options, **{name: value for name, value in of_models.items() if value is not None}))
    info = archive.inspect(path)
    print(f"wrote {path} ({display.size(info.size_bytes)}): {info.manifest.signature or 'no model, only a handler'}")
    if wants_engines:
        print(display.optimized(optimize(path)))


def _pack_pipeline(options: PipelineOptions) -> None:
    packed = pack_pipeline(options)
    size = display.size(archive.inspect(packed.path).size_bytes)
    inputs, outputs = (pipelines.types(side) for side in (packed.pipeline.graph.inputs, packed.outputs))
    print(f"wrote {packed.path} ({size}): {inputs} -> {outputs}")
    if models := pipelines.store_models(packed.pipeline):
        print(f"not checked against models of the store, which are asked for at registering: {', '.join(models)}")


def _parser() -> Parser:
    parser = Parser(
        prog=_PROG,
        usage=f"{_PROG} --model-name NAME --version VERSION [--serialized-file MODEL] [--handler HANDLER] [option …]\n"
        f"       {_PROG} --model-name NAME --version VERSION --pipeline FILE [option …]\n"
        f"       {_PROG} inspect ARCHIVE [--json]\n"
        f"       {_PROG} verify ARCHIVE\n"
        f"       {_PROG} convert --dirname MODEL [option …]",
        description="Pack a Paddle model, or a pipeline, and what it needs into one archive that pdserver serves.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("--model-name", required=True, metavar="NAME", help="letters, digits, '.', '_' and '-'; the archive's name too")
    add("-v", "--version", required=True, help="the model's version, for example 1.0")
    add(
        "--serialized-file",
        type=Path,
        metavar="MODEL",
        help="a model file (.json, .pdmodel or .onnx), an inference folder, or a Paddle Serving folder",
    )
    add(
        "--pipeline",
        type=Path,
        metavar="FILE",
        help="instead of a model: a pipeline's YAML; the code, archives and samples that it names lie beside it",
    )
    add("--params-file", type=Path, metavar="FILE", help="the weights; default: the .pdiparams beside the model file")
    add(
        "--handler",
        help=f"a Python file, or FILE:NAME of a function or class, or one of {', '.join(BUILT_IN_HANDLERS)}; "
        f"default: {PackOptions.handler}",
    )
    add("--model-file", type=Path, metavar="FILE", help="Python code of the model, for handlers that build it")
    add(
        "--extra-files",
        action="append",
        default=[],
        metavar="LIST",
        help="files, folders and globs, separated by commas. A folder comes with its name (data -> data/…); with a "
        "slash at its end (data/) its contents come to the top of the archive",
    )
    add("--runtime", choices=RUNTIMES, default=PackOptions.runtime, help="default: %(default)s")
    add(
        "--export-path",
        type=Path,
        default=PackOptions.export_path,
        metavar="FOLDER",
        help="where to write; default: the working directory",
    )
    add(
        "--archive-format",
        choices=ARCHIVE_FORMATS,
        default=PackOptions.archive_format,
        help="default: NAME.pdar, a zip; zip-store: the same, uncompressed; tgz: NAME.tar.gz; no-archive: a folder",
    )
    add(
        "--optimize",
        action="store_true",
        help="also put the model into the archive in ONNX's form, for engines that may be faster than Paddle; needs "
        "paddle2onnx (pip install 'pdserver[convert]')",
    )
    add("-f", "--force", action="store_true", help="replace what an earlier run wrote")
    add("-r", "--requirements-file", type=Path, metavar="FILE", help="Python packages that the handler needs")
    add(
        "-c", "--config-file", type=Path, metavar="FILE", help="the model's YAML: settings, names of inputs and outputs"
    )
    return parser


def _archive_parser(name: str, description: str, flags: str = "") -> Parser:
    parser = Parser(prog=f"{_PROG} {name}", usage=f"{_PROG} {name} ARCHIVE{flags}", description=description)
    parser.add_argument("archive", type=Path, help="a .pdar, .mar or .tar.gz file, or a folder")
    return parser


def _verify(args: Sequence[str]) -> None:
    path: Path = (
        _archive_parser("verify", "Read an archive whole and compare it with its checksums.").parse_args(args).archive
    )
    manifest = archive.verify(path)
    if manifest.has_checksums:
        print(f"{path}: in order, {len(manifest.files)} files as they were packed")
    else:
        print(f"{path}: readable; it has no checksums in its manifest, so later changes cannot be seen")


def _inspect(args: Sequence[str]) -> None:
    parser = _archive_parser("inspect", "Show what is in an archive.", " [--json]")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(args)
    info = archive.inspect(options.archive)
    if info.pipeline is not None:
        info = replace(info, pipeline=with_outputs(info.pipeline, options.archive))
    if options.json:
        print(display.as_json(options.archive, info))
    elif sys.stdout.isatty():
        display.print_rich(options.archive, info)
    else:
        print(display.as_text(options.archive, info))


def _convert(args: Sequence[str]) -> None:
    options = vars(_convert_parser().parse_args(args))
    shown, encrypted = options.pop("show_proto"), options.pop("encryption")
    if encrypted != (options["key_file"] is not None):
        raise PackingError("--encryption and --key FILE belong together: the new key is written to that file")
    wanted = ConvertOptions(**options)
    if shown:
        print(show(wanted)[1], end="")
        return
    signature = convert(wanted)
    print(f"wrote {wanted.serving_server} and {wanted.serving_client}: {signature}")


def _convert_parser() -> Parser:
    parser = Parser(
        prog=f"{_PROG} convert",
        usage=f"{_PROG} convert --dirname MODEL [option …]",
        description="Write the folders of Paddle Serving for a Paddle model: the server's and the client's.",
    )
    add = parser.add_argument
    add("--dirname", type=Path, required=True, metavar="MODEL", help="the folder with the model and its weights")
    add("--model_filename", metavar="NAME", help="the model's file in it; default: the only one there")
    add("--params_filename", metavar="NAME", help="the weights' file in it; default: what lies beside the model")
    for side in ("server", "client"):
        default = getattr(ConvertOptions, f"serving_{side}")
        add(f"--serving_{side}", type=Path, metavar="FOLDER", default=default, help="default: %(default)s")
    for side, help in (
        ("feed", "what clients call the inputs: one name for each, separated by commas"),
        ("fetch", "the same for the outputs, which are sorted by the model's own names"),
    ):
        add(f"--{side}_alias_names", type=lambda text: text.split(","), metavar="NAMES", help=help)
    add("--show_proto", nargs="?", const=True, default=False, type=_truth, metavar="True",
        help="only print what would be in the .prototxt files")  # fmt: skip
    add("--encryption", action="store_true", help="encrypt the model and its weights (AES, as Paddle does)")
    add("--key", dest="key_file", type=Path, metavar="FILE", help="where to write the new key; nothing may be there")
    add("-f", "--force", action="store_true", help="replace what an earlier run wrote")
    return parser


def _truth(text: str) -> bool:
    truths = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in truths:
        raise argparse.ArgumentTypeError(f"{text!r}: expected True or False")
    return truths[text.lower()]
