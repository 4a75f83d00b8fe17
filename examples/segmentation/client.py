"""Ask what each pixel of a picture shows, by the Open Inference Protocol, and write the picture with that in it.

    python examples/segmentation/client.py build/segmentation/table.jpg --draw build/segmentation/answer.png

With --expect, the mask that train.py has written beside a picture, it says how many of the pixels are right.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import tritonclient.http


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask the segmentation example what each pixel of a picture shows.")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--server", default="localhost:8080", help="%(default)s")
    parser.add_argument("--draw", type=Path, help="a file for the picture with the answer in it")
    parser.add_argument("--expect", type=Path, help="which pixel shows what: a PNG of the numbers of the classes")
    given = parser.parse_args()

    image = tritonclient.http.InferInput("image", [1], "BYTES")
    image.set_data_from_numpy(np.array([given.picture.read_bytes()], np.object_))
    wanted = [tritonclient.http.InferRequestedOutput(name) for name in ("mask", "areas", "drawn")]
    with tritonclient.http.InferenceServerClient(given.server) as client:
        answer = client.infer("segmentation", [image], outputs=wanted)

    for name, share in json.loads(answer.as_numpy("areas")[0]).items():
        print(f"{name}: {share:.1%}")
    mask = answer.as_numpy("mask")
    if given.expect:
        right = (mask == cv2.imread(str(given.expect), cv2.IMREAD_GRAYSCALE)).mean()
        print(f"{right:.1%} of {mask.size} pixels are right")
    if given.draw:
        given.draw.write_bytes(answer.as_numpy("drawn")[0])


if __name__ == "__main__":
    main()
