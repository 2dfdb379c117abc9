"""Run lengths (COCO's RLE) as label files hold them."""

from __future__ import annotations

from typing import Any

from pycocotools import mask as coco

from utils.datasets.base import BadRecord
from utils.datasets.checks import shortened


def checked_rle(where: str, value: Any, frame: tuple[int, int]) -> dict[str, Any]:
    """A COCO RLE whose counts are text, as `Target` holds it.

    Args:
        where: file, position and id of the record.
        value: `{"size": [height, width], "counts": …}`; counts are text or bytes (compressed), or a list of lengths.
        frame: (height, width) that the labels were drawn on, in pixels.

    Raises:
        BadRecord: it is no RLE, or its runs do not fill the frame exactly; pycocotools would write beyond it.
    """
    if not isinstance(value, dict) or not {"size", "counts"} <= set(value):
        raise BadRecord(f"{where} is {shortened(value)}, expected run lengths with size and counts")
    size, counts = value["size"], value["counts"]
    if not isinstance(size, (list, tuple)) or list(size) != list(frame):
        raise BadRecord(f"{where}: its run lengths are of size {shortened(size)}, its frame is {list(frame)}")
    if isinstance(counts, list):
        if not all(type(run) is int and run >= 0 for run in counts) or sum(counts) != frame[0] * frame[1]:
            raise BadRecord(
                f"{where}: its run lengths {shortened(counts)} do not fill the frame of {frame[1]}x{frame[0]}"
            )
        counts = coco.frPyObjects({"size": list(frame), "counts": counts}, *frame)["counts"]
    try:
        text = counts.decode("ascii") if isinstance(counts, bytes) else counts
        if not isinstance(text, str) or not text.isascii() or pixels_of(text) != frame[0] * frame[1]:
            raise ValueError
    except (ValueError, IndexError) as error:
        raise BadRecord(
            f"{where}: its run lengths {shortened(counts)} are broken, or do not fill the frame of "
            f"{frame[1]}x{frame[0]}"
        ) from error
    return {"size": list(frame), "counts": text}


def pixels_of(counts: str) -> int:
    """How many pixels run lengths fill; pycocotools tells only by decoding them, 20 ms a frame of 4K.

    A run is written in groups of five bits from the lowest, each a character from 48 on whose sixth bit says that
    another follows; from the third run on it is written as the difference to the run before the last.

    Raises:
        IndexError: the last run is cut off.
        ValueError: a run is negative.
    """
    runs: list[int] = []
    i = 0
    while i < len(counts):
        value, shift, more = 0, 0, True
        while more:
            bits = ord(counts[i]) - 48
            value |= (bits & 31) << shift
            i, shift, more = i + 1, shift + 5, bool(bits & 32)
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        if runs[-1] < 0:
            raise ValueError("a negative run")
    return sum(runs)
