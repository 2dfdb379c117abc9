"""A sheet of samples to look at: each picture with its targets marked and its question below."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from model.inputs.picture_files import decoded, opened_picture
from model.masks import paint_mask
from utils.datasets.base import Sample, draw_target
from utils.datasets.made_questions import draw

TILE = (480, 400)  # width and height that a picture may take, in pixels
LEAST_WIDTH = 320  # of a column, for the text
COLUMNS = 3
GAP = 16
LINE = 21
TEXT_SIZE = 16
LETTER = 7.5  # pixels that a letter takes, on average
LINES = 4  # of a question; the rest is cut
BACKGROUND, INK, FAINT = (250, 250, 248), (24, 24, 24), (110, 110, 110)
# Of targets in their order; none is a usual colour of ground, trees, roofs or roads.
TARGET_COLOURS = ((255, 32, 208), (0, 216, 255), (255, 196, 0), (140, 90, 255), (60, 255, 120), (255, 96, 64))
TINT = 0.5  # of the usual tint of masks
IGNORED = (128, 128, 128)
SMALL = 0.12  # of the longer side: targets that are smaller are shown enlarged too
INSET = 0.36  # of a tile's height: side of the square that shows them


@dataclass(frozen=True)
class Chosen:
    """Samples of a sheet, and how many there are to choose from.

    Args:
        samples: in the order in which they are shown.
        of: samples of the split.
    """

    samples: list[Sample]
    of: int


def choose(samples: Sequence[Sample], count: int, titles: Sequence[str], seed: int = 0) -> Chosen:
    """Samples for a sheet: of each value of the groups alike, from as many pictures as there are.

    Args:
        samples: of a split.
        count: how many at most.
        titles: names of the groups; the first one that divides the samples counts.
        seed: of the choice.
    """
    ordered = sorted(samples, key=lambda one: draw(seed, one.key))
    divided = next((name for name in titles if len({one.groups.get(name) for one in ordered}) > 1), None)
    parts: dict[object, list[Sample]] = {}
    for one in ordered:
        value = one.groups.get(divided) if divided else None
        parts.setdefault(value if one.targets else "no target", []).append(one)
    seen: dict[object, int] = {}
    chosen: list[Sample] = []
    while len(chosen) < min(count, len(ordered)):
        for part in parts.values():
            if part and len(chosen) < count:
                part.sort(key=lambda one: seen.get(one.image_path, 0))  # stable: a picture that was not shown yet
                one = part.pop(0)
                seen[one.image_path] = seen.get(one.image_path, 0) + 1
                chosen.append(one)
    return Chosen(chosen, len(samples))


def draw_sheet(chosen: Sequence[Sample]) -> np.ndarray:
    """The sheet, uint8[H, W, 3], RGB."""
    tiles = [draw_tile(sample) for sample in chosen]
    width = max(LEAST_WIDTH, *(tile.shape[1] for tile in tiles))
    letters = round(width / LETTER)
    texts = [[*question_lines(one.question, letters), caption(one, letters)] for one in chosen]
    rows = [range(start, min(start + COLUMNS, len(tiles))) for start in range(0, len(tiles), COLUMNS)]
    heights = [max(tiles[i].shape[0] + len(texts[i]) * LINE for i in row) + 2 * GAP for row in rows]
    columns = min(COLUMNS, len(tiles))
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, sum(heights) + GAP), BACKGROUND)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT_SIZE)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for column, i in enumerate(row):
            left, line = GAP + column * (width + GAP), top + tiles[i].shape[0] + 6
            sheet.paste(Image.fromarray(tiles[i]), (left, top))
            for n, text in enumerate(texts[i]):
                pen.text((left, line + n * LINE), text, FAINT if n == len(texts[i]) - 1 else INK, font)
        top += height
    return np.asarray(sheet)


def question_lines(question: str, letters: int) -> list[str]:
    """A question in lines of so many letters."""
    lines = textwrap.wrap(question, letters) or [""]
    return lines if len(lines) <= LINES else [*lines[: LINES - 1], f"{lines[LINES - 1][: letters - 2]} …"]


def caption(sample: Sample, letters: int) -> str:
    """What stands below a question: how many targets it has, its groups, its picture."""
    count = len(sample.targets)
    told = "no target" if not count else "1 target" if count == 1 else f"{count} targets"
    line = " · ".join([told, *(str(value) for value in sample.groups.values()), sample.image_path.name])
    return line if len(line) <= letters else f"{line[: letters - 1]}…"


def draw_tile(sample: Sample) -> np.ndarray:
    """A picture with its targets, uint8[h, w, 3], RGB, as large as fits TILE.

    Small targets are shown enlarged in a corner where they are not.
    """
    with opened_picture(sample.image_path) as opened:
        pixels = decoded(opened, sample.upright)
    scale = min(TILE[0] / pixels.shape[1], TILE[1] / pixels.shape[0])
    size = max(1, round(pixels.shape[0] * scale)), max(1, round(pixels.shape[1] * scale))
    tile = painted(sample, resized(pixels, size), (0, 0, *pixels.shape[:2]), pixels.shape[:2])
    box = targets_box(sample, pixels.shape[:2])
    if box is not None and max(box[2:]) < SMALL * max(pixels.shape[:2]):
        add_inset(tile, sample, pixels, box)
    return tile


def painted(
    sample: Sample, tile: np.ndarray, window: tuple[int, int, int, int], picture: tuple[int, int]
) -> np.ndarray:
    """A tile with the parts of the targets that lie in a window of the picture (top, left, height, width)."""
    top, left, height, width = window
    shown = [(target, TARGET_COLOURS[i % len(TARGET_COLOURS)]) for i, target in enumerate(sample.targets)]
    if sample.ignore is not None:
        shown.insert(0, (sample.ignore, IGNORED))
    for target, colour in shown:
        mask = draw_target(sample, target, *picture)[top : top + height, left : left + width]
        small = resized(mask.astype(np.float32), tile.shape[:2]) > 0.25  # thin parts stay
        if small.any():
            tint = paint_mask(tile, small.astype(np.uint8), colour)
            outline = (tint == colour).all(axis=2, keepdims=True)
            # the colours of what is marked stay to be seen, since questions may be about them
            tile = np.where(outline, tint, (TINT * tint + (1 - TINT) * tile).astype(np.uint8))
    return tile


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[h, w, …] at another (height, width)."""
    smaller = size[0] < pixels.shape[0]
    return cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def targets_box(sample: Sample, picture: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """(top, left, height, width) around all targets in pixels of the picture, None where there are none."""
    if not sample.targets:
        return None
    drawn = np.zeros(picture, bool)
    for target in sample.targets:
        drawn |= draw_target(sample, target, *picture) > 0
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    if not len(rows):
        return None
    return int(rows[0]), int(columns[0]), int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)


def add_inset(tile: np.ndarray, sample: Sample, pixels: np.ndarray, box: tuple[int, int, int, int]) -> None:
    """Show the surroundings of a box enlarged in the tile's corner that is farthest from it, and frame both."""
    high, wide = pixels.shape[:2]
    side = min(round(2.2 * max(box[2:])) + 4, high, wide)
    top = int(np.clip(box[0] + box[2] / 2 - side / 2, 0, high - side))
    left = int(np.clip(box[1] + box[3] / 2 - side / 2, 0, wide - side))
    place = round(INSET * min(tile.shape[:2]))
    inset = resized(pixels[top : top + side, left : left + side], (place, place))
    inset = painted(sample, inset, (top, left, side, side), (high, wide))
    scale = tile.shape[0] / high
    corner = (round(left * scale), round(top * scale)), (round((left + side) * scale), round((top + side) * scale))
    cv2.rectangle(tile, *corner, (255, 255, 255), 1, cv2.LINE_AA)
    y = 0 if top + side / 2 > high / 2 else tile.shape[0] - place
    x = 0 if left + side / 2 > wide / 2 else tile.shape[1] - place
    tile[y : y + place, x : x + place] = inset
    cv2.rectangle(tile, (x, y), (x + place - 1, y + place - 1), (255, 255, 255), 2)
