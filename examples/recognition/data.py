"""Made-up brands, and pictures of shelves with them: the models learn from them, and answers are checked by them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

SEED = 23
Image = NDArray[np.uint8]
"""[height, width, 3], blue first, as OpenCV has it."""
Box = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels."""

COLOURS = {
    "white": (240, 240, 240), "black": (35, 30, 30), "red": (50, 40, 210), "green": (70, 160, 50),
    "blue": (190, 90, 30), "yellow": (50, 210, 240), "purple": (150, 50, 130),
}  # fmt: skip
SHAPES = ("disc", "ring", "square", "triangle", "star", "cross", "bars", "moon")
SMALLEST, LARGEST = 44, 84
"""The side of a label on the shelf, in pixels."""
SHELF = (256, 320)
"""Height and width of a picture."""


@dataclass(frozen=True)
class Brand:
    """A label: a shape in one colour on a plate of another."""

    name: str
    shape: str
    ink: str
    plate: str


KNOWN = (
    Brand("Northstar", "star", "yellow", "blue"),
    Brand("Red Ring", "ring", "red", "white"),
    Brand("Alpine", "triangle", "white", "green"),
    Brand("Luna", "moon", "yellow", "purple"),
    Brand("Medica", "cross", "red", "yellow"),
    Brand("Zebra", "bars", "white", "black"),
    Brand("Sunny", "disc", "yellow", "red"),
    Brand("Cubus", "square", "purple", "white"),
)
"""The gallery as it is at first."""
NEW = Brand("Limetta", "square", "green", "yellow")
"""A brand that comes to market later."""


def others() -> list[Brand]:
    """All designs but the brands': the models are trained on these, and know none of the brands."""
    taken = {(brand.shape, brand.ink, brand.plate) for brand in (*KNOWN, NEW)}
    designs = ((shape, ink, plate) for shape, ink, plate in product(SHAPES, COLOURS, COLOURS) if ink != plate)
    return [Brand(" ".join(design), *design) for design in designs if design not in taken]


def _outline(shape: str) -> list[NDArray[np.float64]]:
    """Polygons that are filled by the even-odd rule; the plate goes from -1 to 1."""
    around = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(around), np.sin(around)], 1)
    if shape == "disc":
        return [0.6 * circle]
    if shape == "ring":
        return [0.65 * circle, 0.35 * circle]
    if shape == "moon":
        wide, inner = np.linspace(0.7, 2 * np.pi - 0.7, 24), np.linspace(2 * np.pi - 1.2, 1.2, 24)
        outside = 0.65 * np.stack([np.cos(wide), np.sin(wide)], 1)
        return [np.concatenate([outside, [0.3, 0] + 0.53 * np.stack([np.cos(inner), np.sin(inner)], 1)])]
    if shape == "square":
        return [np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])]
    if shape == "triangle":
        return [np.array([[0, -0.65], [0.65, 0.5], [-0.65, 0.5]])]
    if shape == "star":
        turns = np.arange(10) * np.pi / 5 - np.pi / 2
        radii = np.where(np.arange(10) % 2, 0.3, 0.72)
        return [np.stack([radii * np.cos(turns), radii * np.sin(turns)], 1)]
    if shape == "cross":
        a, b = 0.2, 0.6
        return [np.array([[-a, -b], [a, -b], [a, -a], [b, -a], [b, a], [a, a],
                          [a, b], [-a, b], [-a, a], [-b, a], [-b, -a], [-a, -a]])]  # fmt: skip
    bar = np.array([[-0.55, -0.13], [0.55, -0.13], [0.55, 0.13], [-0.55, 0.13]])
    return [bar + np.array([0, y]) for y in (-0.42, 0, 0.42)]


def draw(picture: Image, brand: Brand, centre: tuple[float, float], side: float, degrees: float) -> Box:
    """Draws a label into the picture, turned by so much. Gives the box around it."""
    turn = np.deg2rad(degrees)
    matrix = side / 2 * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    plate = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) @ matrix + centre
    # Four bits after the point, so that edges are where they should be.
    cv2.fillPoly(picture, [np.rint(plate * 16).astype(np.int32)], COLOURS[brand.plate], cv2.LINE_AA, 4)
    polygons = [np.rint((points @ matrix + centre) * 16).astype(np.int32) for points in _outline(brand.shape)]
    cv2.fillPoly(picture, polygons, COLOURS[brand.ink], cv2.LINE_AA, 4)
    left, top = np.floor(plate.min(0)).astype(int).tolist()
    right, bottom = np.ceil(plate.max(0)).astype(int).tolist()
    return left, top, right, bottom


def background(rng: np.random.Generator, size: tuple[int, int] = SHELF) -> Image:
    """Blurred colours, and boards."""
    height, width = size
    coarse = rng.uniform(70, 190, (4, 5, 1)) + rng.uniform(-30, 30, (4, 5, 3))
    picture: Image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)
    for y in rng.integers(0, height, 3).tolist():
        cv2.line(picture, (0, y), (width, y + int(rng.integers(-8, 9))), rng.uniform(60, 130, 3).tolist(), 4)
    return picture


def photographed(picture: Image, rng: np.random.Generator) -> Image:
    """In another light, a little blurred, with noise."""
    light = rng.uniform(0.8, 1.15) * rng.uniform(0.94, 1.06, 3)
    blurred = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 1.0)) * light
    return (blurred + rng.normal(0, 5, picture.shape)).clip(0, 255).astype(np.uint8)


def shelf(brands: list[Brand], rng: np.random.Generator) -> tuple[Image, list[Box]]:
    """A picture of these brands, side by side and in two rows (so at most six), and their boxes."""
    picture = background(rng)
    places = [(row, column) for row in range(2) for column in range(3)]
    height, width = SHELF[0] / 2, SHELF[1] / 3
    boxes = []
    for brand, place in zip(brands, rng.permutation(len(places))[: len(brands)].tolist(), strict=True):
        row, column = places[place]
        side = float(rng.uniform(SMALLEST, LARGEST))
        y, x = (row + 0.5) * height + rng.uniform(-12, 12), (column + 0.5) * width + rng.uniform(-6, 6)
        boxes.append(draw(picture, brand, (x, y), side, float(rng.uniform(-12, 12))))
    return photographed(picture, rng), boxes


def portrait(brand: Brand, rng: np.random.Generator, side: int = 32) -> Image:
    """One label, cut out about as a detector does."""
    picture = background(rng, (side, side))
    middle = side / 2 + rng.uniform(-0.06, 0.06, 2) * side
    draw(picture, brand, (float(middle[0]), float(middle[1])), float(rng.uniform(0.74, 0.98)) * side,
         float(rng.uniform(-14, 14)))  # fmt: skip
    return photographed(picture, rng)
