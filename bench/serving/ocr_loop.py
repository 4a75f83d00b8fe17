"""The OCR example's plain loop as a process: says that it is ready, waits for a line, and says its rate.

`--draw N` draws N pages instead, and writes what it reads on each beside it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from pathlib import Path

import pages
import plain


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--together", action="store_true")
    parser.add_argument("--draw", type=int)
    parser.add_argument("--goods", type=int)
    arguments = parser.parse_args()
    loop = plain.Plain(arguments.models, arguments.together)
    if arguments.draw:
        for number in range(arguments.draw):
            page = pages.receipt(number, arguments.goods).encoded(".png")
            (arguments.folder / f"{number}.png").write_bytes(page)
            (arguments.folder / f"{number}.json").write_text(json.dumps(loop.read(page)))
        return
    files = sorted(arguments.folder.glob("*.png"), key=lambda file: int(file.stem))
    bodies = [file.read_bytes() for file in files]
    expected = [json.loads(file.with_suffix(".json").read_bytes())["ocrResults"][0]["prunedResult"] for file in files]
    loop.read(bodies[0])
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.monotonic()
    for count in itertools.count(1):
        number = count % len(bodies)
        read = loop.read(bodies[number])["ocrResults"][0]["prunedResult"]
        assert read["rec_texts"] == expected[number]["rec_texts"], number
        if (elapsed := time.monotonic() - started) > arguments.seconds:
            print(count / elapsed)
            return


if __name__ == "__main__":
    main()
