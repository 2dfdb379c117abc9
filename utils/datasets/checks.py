"""Checks of what label files hold, shared by the data sets; each names the record, the value and what is expected."""

from __future__ import annotations

from math import isnan
from operator import mul, sub
from typing import Any

from pycocotools import mask as coco

from model.language.tokens import checked_question
from model.masks import Polygon, polygons_rle
from utils.datasets.base import BadRecord
from utils.datasets.crossings import crosses_itself

NUMBERS = frozenset((int, float))  # not bool, which isinstance would let pass
MAX_COORDINATE = 1e6  # pixels; beyond any photograph, and pycocotools would draw all the way there


def without_none(**values: Any) -> dict[str, Any]:
    """The groups that have a value."""
    return {name: value for name, value in values.items() if value is not None}


def shortened(value: Any) -> str:
    """The repr of a value for a message, at most 60 characters."""
    try:
        text = repr(value)
    except RecursionError:
        return f"a {type(value).__name__} that is nested too deeply"
    return text if len(text) <= 60 else f"{text[:57]}..."


def checked_question_text(where: str, value: Any) -> str:
    """A question without the white space around it.

    Raises:
        BadRecord: it is no text, empty, or cannot be asked.
    """
    if not isinstance(value, str) or not value.strip():
        raise BadRecord(f"{where} is {shortened(value)}, expected a text")
    try:
        checked_question(value)
    except ValueError as error:
        raise BadRecord(f"{where} {shortened(value)}: {error}") from error
    return value.strip()


def checked_frame(where: str, height: Any, width: Any) -> tuple[int, int]:
    """(height, width) of the frame that labels were drawn on.

    Raises:
        BadRecord: they are not whole numbers of pixels.
    """
    for side, value in (("height", height), ("width", width)):
        if type(value) is not int:  # isinstance would let true pass for 1
            raise BadRecord(f"{where}: {side} is {shortened(value)}, expected whole pixels")
    if not all(1 <= side <= MAX_COORDINATE for side in (height, width)):
        raise BadRecord(f"{where}: its frame is {shortened(width)}x{shortened(height)} pixels")
    return height, width


def checked_polygon(where: str, values: Any, frame: tuple[int, int]) -> Polygon:
    """A polygon's coordinates; what overhangs the frame is cut off when the mask is drawn.

    Raises:
        BadRecord: fewer than 3 points, no numbers, wholly outside the frame, or without area.
    """
    # Written with what runs over a list in C: sets have millions of coordinates.
    if not isinstance(values, list) or len(values) % 2 or not NUMBERS.issuperset(map(type, values)):
        raise BadRecord(f"{where} is {shortened(values)}, expected a list of numbers x, y, x, y, …")
    # `max` may pass over NaN, a sum does not.
    if values and not (max(map(abs, values)) <= MAX_COORDINATE and not isnan(sum(values))):
        raise BadRecord(f"{where} has a coordinate that is no pixel's")
    if len(values) < 6:
        raise BadRecord(f"{where} has {len(values) // 2} points; a polygon needs 3")
    xs, ys = values[0::2], values[1::2]
    if max(xs) <= 0 or max(ys) <= 0 or min(xs) >= frame[1] or min(ys) >= frame[0]:
        raise BadRecord(f"{where} lies wholly outside the frame of {frame[1]}x{frame[0]}")
    polygon = tuple(map(float, values))
    empty = abs(signed_area(values)) < 1e-6 and not crosses_itself(polygon)
    if empty and not coco.area(polygons_rle((polygon,), frame, frame)):
        raise BadRecord(f"{where} has no area")
    return polygon


def signed_area(polygon: list[float]) -> float:
    """The area that a polygon encloses, negative where its points run the other way round.

    Parts of one that crosses itself may cancel each other.
    """
    xs, ys = polygon[0::2], polygon[1::2]
    before_xs, before_ys = xs[-1:] + xs[:-1], ys[-1:] + ys[:-1]
    return sum(map(sub, map(mul, before_xs, ys), map(mul, xs, before_ys))) / 2


def crossing_polygons(where: str, targets: tuple[tuple[Polygon, ...], ...]) -> list[str]:
    """What messages call the polygons that cross themselves."""
    return [
        f"{where}, target {t}, polygon {p}"
        for t, target in enumerate(targets)
        for p, polygon in enumerate(target)
        if crosses_itself(polygon)
    ]


def checked_picture_name(where: str, field: str, name: Any) -> str:
    """The name of a picture, to be looked for in one folder and nowhere else.

    Raises:
        BadRecord: it is none.
    """
    if not isinstance(name, str) or not name or "/" in name or "\0" in name or name.startswith("."):
        raise BadRecord(f"{where}: {field} is {shortened(name)}, expected the name of a picture")
    return name
