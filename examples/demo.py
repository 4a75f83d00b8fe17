"""Serve the examples with `pdserver` and send it real, held-out data over HTTP. `make demo` prepares all that it needs.

It shows a dozen scans beside the server's answers, measures the accuracy on all held-out scans, prints commands to try,
and serves until Ctrl-C. With `--once`, it ends by itself, with status 0 if the accuracy is as promised.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import requests
from demo_server import Addresses, DemoError, addresses, serving
from diabetes import data as diabetes
from digits import data as digits
from numpy.typing import NDArray
from ocr import ask as ocr
from ocr import pages
from rich.columns import Columns
from rich.console import Console
from rich.progress import track
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

ACCURACY_HELD = 0.97
SHOWN = 12
SHOWN_WRONG = 3
CLIENTS = 8
PICTURE_SIDE = 12
INK = " .:-=+*#%@"
HERE = Path(__file__).parent
NAMES: dict[str, str] = json.loads((HERE / "digits/index_to_name.json").read_text())


class Client(threading.local):
    """Asks the server. Every thread keeps its own connection open."""

    def __init__(self, at: Addresses) -> None:
        self.session = requests.Session()
        self.predictions = f"{at.inference}/predictions"

    def digit(self, image: NDArray[np.uint8]) -> dict[str, float]:
        """The names of the likeliest digits, likeliest first, and their probabilities."""
        answer = self.session.post(
            f"{self.predictions}/digits", data=digits.to_png(image), headers={"Content-Type": "image/png"}, timeout=30
        )
        answer.raise_for_status()
        likeliest: dict[str, float] = answer.json()
        return likeliest

    def progression(self, patient: dict[str, float]) -> float:
        answer = self.session.post(f"{self.predictions}/diabetes", json=patient, timeout=30)
        answer.raise_for_status()
        return float(answer.json()["progression"])


def picture(image: NDArray[np.uint8], grey: bool) -> Text:
    """A scan as text: two pixels to a character, one above the other, in shades of grey or else in ASCII."""
    smooth = cv2.resize(image, (PICTURE_SIDE, PICTURE_SIDE), interpolation=cv2.INTER_LINEAR)
    text = Text()
    for upper, lower in zip(smooth[::2], smooth[1::2], strict=True):
        for top, bottom in zip(upper.tolist(), lower.tolist(), strict=True):
            if grey:
                text.append("▀", f"rgb({top},{top},{top}) on rgb({bottom},{bottom},{bottom})")
            else:
                text.append(INK[(top + bottom) * (len(INK) - 1) // (2 * 255)])
        text.append("\n")
    text.right_crop()
    return text


def card(image: NDArray[np.uint8], likeliest: dict[str, float], truth: str, grey: bool) -> Table:
    """A scan beside the server's answer, how sure the server is, and the truth."""
    label, confidence = next(iter(likeliest.items()))
    right = label == truth
    colour = "green" if right else "red"
    words = Table.grid()
    words.add_row(Text(label, f"bold {colour}"))
    words.add_row(ProgressBar(1.0, confidence, width=10, complete_style=colour, finished_style=colour))
    words.add_row(Text(f"{confidence:.1%} sure"))
    words.add_row(Text(f"\nis {truth}", "dim" if right else colour))
    row = Table.grid(padding=(0, 1))
    row.add_row(picture(image, grey), words)
    return row


def show_digits(console: Console, some: digits.Digits, answers: list[dict[str, float]]) -> None:
    grey = console.is_terminal and console.color_system is not None and not console.options.ascii_only
    cards = [
        card(image, answer, NAMES[str(label)], grey)
        for image, label, answer in zip(some.images, some.labels.tolist(), answers, strict=True)
    ]
    console.print(Columns(cards, padding=(1, 0)))


def measure(console: Console, client: Client, held_out: digits.Digits) -> float:
    """The share of all held-out scans that the server, asked by several clients at once, recognises."""
    started = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as threads:
        waiting = threads.map(client.digit, held_out.images)
        total = len(held_out.images)
        answers = list(track(waiting, "Asking for every held-out digit", total, console=console, transient=True))
    seconds = time.perf_counter() - started
    said = np.array([next(iter(answer)) for answer in answers])
    wrong = np.flatnonzero(said != [NAMES[str(label)] for label in held_out.labels])
    accuracy = 1 - len(wrong) / total
    console.print(f"[bold]digits[/]: {total - len(wrong)} of {total} recognised, {accuracy:.1%}, in {seconds:.1f} s")
    if len(wrong):
        console.print(f"The first of the {len(wrong)} that were not:")
        shown = wrong[:SHOWN_WRONG]
        mistaken = digits.Digits(held_out.images[shown], held_out.labels[shown])
        show_digits(console, mistaken, [answers[index] for index in shown])
    return accuracy


def measure_patients(console: Console, client: Client, held_out: diabetes.Patients) -> None:
    patients = [dict(zip(diabetes.FEATURES, row, strict=True)) for row in held_out.features.tolist()]
    with ThreadPoolExecutor(CLIENTS) as threads:
        said = np.array(list(threads.map(client.progression, patients)))
    error = np.abs(said - held_out.progression).mean()
    console.print(f"[bold]diabetes[/]: progression off by {error:.0f} on average on {len(said)} held-out patients")


def show_commands(console: Console, at: Addresses, patients: diabetes.Patients) -> None:
    patient = json.dumps(dict(zip(diabetes.FEATURES, patients.features[0].tolist(), strict=True)))
    image = os.path.relpath(HERE / "digits/seven.png")
    console.print("\nTry:")
    for command in (
        f"curl {at.inference}/predictions/digits -T {image}",
        f"curl {at.inference}/predictions/diabetes -H 'Content-Type: application/json' -d '{patient}'",
        f"curl {at.management}/models/digits",
        f"curl -X PUT '{at.management}/models/digits?min_worker=2&synchronous=true'",
        f"curl {at.metrics}/metrics",
    ):
        console.print(f"  {command}", markup=False, highlight=False, soft_wrap=True)


def show_page(console: Console, at: Addresses, folder: Path) -> None:
    """What the OCR pipeline reads on a photographed page, beside what stands there, and the picture of both."""
    page = pages.by_name()["photo.jpg"]
    said = ocr.ask(f"{at.inference}/predictions/ocr", page.encoded(".jpg"))
    found = ocr.compare(said, [{"text": line.text, "box": line.box} for line in page.lines])
    console.print(f"[bold]ocr[/]: {found.accuracy:.1%} of the characters of a photographed page, which says")
    for text in said:
        console.print(f"  {text.text}", "[red](upside down)[/]" if text.turned else "", highlight=False)
    picture = folder / "page.png"
    ocr.save(picture, ocr.drawn(page.image, said))
    console.print(f"The boxes that it found are drawn into {picture}")


def run(console: Console, folder: Path, port: int, once: bool) -> int:
    at = addresses(port)
    has_ocr = (folder / "store" / "ocr.pdar").is_file()
    models = ["digits", "diabetes", *(["ocr"] if has_ocr else [])]
    with console.status("Starting the server") as status, serving(folder, at, models):
        status.stop()
        client = Client(at)
        _, held_out = digits.load()
        _, patients = diabetes.load()
        some = digits.Digits(held_out.images[:SHOWN], held_out.labels[:SHOWN])
        show_digits(console, some, [client.digit(image) for image in some.images])
        accuracy = measure(console, client, held_out)
        measure_patients(console, client, patients)
        if has_ocr:
            show_page(console, at, folder)
        else:
            console.print("[bold]ocr[/]: left out, for its models could not be fetched (examples/ocr/README.md)")
        if not once:
            show_commands(console, at, patients)
            console.print(f"\nServing until Ctrl-C; the server's log is {folder / 'server.log'}")
            signal.pause()
    if accuracy < ACCURACY_HELD:
        console.print(f"[red]The accuracy is below {ACCURACY_HELD:.0%}.[/]")
    return int(accuracy < ACCURACY_HELD)


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the examples and send them real data; see `make demo`.")
    parser.add_argument("--folder", type=Path, default=Path("build/demo"), help="with the archives in store/")
    parser.add_argument("--port", type=int, default=8080, help="the first of three in a row; 0: three free ones")
    parser.add_argument("--once", action="store_true", help="end when all is shown, 0 if the accuracy holds")
    chosen = parser.parse_args()
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, lambda number, _: sys.exit(128 + number))
    try:
        status = run(Console(), chosen.folder, chosen.port, chosen.once)
    except (DemoError, requests.RequestException) as error:
        print(f"demo: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("\nThe server has stopped.")
        status = 0
    sys.exit(status)


if __name__ == "__main__":
    main()
