"""PaddleX's own server with the OCR example's models: its pipeline and steps, and its form of requests."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml

from bench.environments import COMMON, Environment
from bench.ocr import Ocr, environment
from bench.page_load import PageTarget
from bench.peers.pages import PageServer, same_texts
from bench.processes import Processes, free_ports

_MEAN_STD = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "scale": 1 / 255}
_DIRECTIONS = ["0_degree", "180_degree"]
_ENGINE = {"enable_new_ir": False, "cpu_threads": 1}
"""As ours has Paddle. By itself, it takes Paddle's new representation, in which oneDNN can't run this detector."""
_NAMES = {"det": "PP-OCRv4_mobile_det", "cls": "PP-LCNet_x0_25_textline_ori", "rec": "PP-OCRv4_mobile_rec"}


class PaddleX:
    """A process takes one request at a time, so there are as many as ours has for a model, each with a port."""

    name: ClassVar[str] = "PaddleX"
    _environment = Environment(
        "paddlex",
        (*(requirement for requirement in COMMON if "opencv" not in requirement), "paddlex[ocr,serving]==3.7.2"),
    )

    def build(self) -> None:
        self._environment.build()

    def version(self) -> str:
        return self._environment.version("paddlex")

    def start(self, ocr: Ocr, workers: Mapping[str, int], folder: Path) -> PageServer:
        ports = free_ports(workers["detect"])
        pipeline = _pipeline(ocr.models, folder)
        each = f"{self._environment.bin}/paddlex --serve --pipeline {pipeline} --host 127.0.0.1 --device cpu --port"
        command = ["bash", "-c", "".join(f"{each} {port} & " for port in ports) + "wait"]
        settings = {"PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK": "True", "PADDLE_PDX_CACHE_HOME": str(folder / "cache")}
        urls = [f"http://127.0.0.1:{port}/ocr" for port in ports]
        target = PageTarget(urls, [_request(page) for page in ocr.pages], same_texts(ocr, _texts))
        return PageServer(Processes(command, folder, environment() | settings), target)


def _pipeline(models: Path, folder: Path) -> Path:
    """The pipeline's file. Beside each model, PaddleX wants what it has to do before and after."""
    characters = (models / "characters.txt").read_text("utf-8").splitlines()
    normal = {"NormalizeImage": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "scale": 1 / 255}}
    decode = {"DecodeImage": {"channel_first": False, "img_mode": "BGR"}}
    described: dict[str, tuple[list[Any], dict[str, Any]]] = {
        "det": (
            [decode, {"DetResizeForTest": {"resize_long": 960}}, normal, {"ToCHWImage": None}],
            {"name": "DBPostProcess", "thresh": 0.3, "box_thresh": 0.6, "max_candidates": 1000, "unclip_ratio": 1.5},
        ),
        "cls": (
            [{"ResizeImage": {"size": [192, 48]}}, {"NormalizeImage": _MEAN_STD}, {"ToCHWImage": None}],
            {"Topk": {"topk": 1, "label_list": _DIRECTIONS}},
        ),
        "rec": (
            [decode, {"RecResizeImg": {"image_shape": [3, 48, 320]}}],
            {"name": "CTCLabelDecode", "character_dict": characters},
        ),
    }
    for model, (before, after) in described.items():
        (folder / model).mkdir()
        for ending in (".pdmodel", ".pdiparams"):
            (folder / model / f"inference{ending}").symlink_to(models / model / f"inference{ending}")
        said = {
            "Global": {"model_name": _NAMES[model]},
            "PreProcess": {"transform_ops": before},
            "PostProcess": after,
        }
        (folder / model / "inference.yml").write_text(yaml.safe_dump(said, allow_unicode=True), "utf-8")
    kinds = {"TextDetection": "det", "TextLineOrientation": "cls", "TextRecognition": "rec"}
    modules = {"TextDetection": "text_detection", "TextLineOrientation": "textline_orientation"}
    written = {
        "pipeline_name": "OCR",
        "text_type": "general",
        "use_doc_preprocessor": False,
        "use_textline_orientation": True,
        "SubModules": {
            kind: {
                "module_name": modules.get(kind, "text_recognition"),
                "model_name": _NAMES[model],
                "model_dir": str(folder / model),
                "batch_size": 1 if model == "det" else 8,
                "engine_config": _ENGINE,
            }
            for kind, model in kinds.items()
        },
    }
    file = folder / "OCR.yaml"
    file.write_text(yaml.safe_dump(written))
    return file


def _request(page: bytes) -> tuple[bytes, dict[str, str]]:
    body = {"file": base64.b64encode(page).decode(), "fileType": 1, "visualize": False}
    return json.dumps(body).encode(), {"Content-Type": "application/json"}


def _texts(answer: Any) -> list[str]:
    return list(answer["result"]["ocrResults"][0]["prunedResult"]["rec_texts"])
