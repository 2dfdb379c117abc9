"""Targets that label files hold as COCO run lengths (RLE)."""

from __future__ import annotations

from typing import Any

from pycocotools import mask as coco

from model.masks import pixels_of
from utils.datasets.base import BadRecord
from utils.datasets.checks import shortened


def checked_rle(where: str, value: Any, frame: tuple[int, int]) -> dict[str, Any]:
    """An RLE as `Sample.targets` holds it: {"size": [height, width], "counts": text}.

    Args:
        where: file, position and id of the record.
        value: its counts are text or bytes as pycocotools writes them, or a list of runs.
        frame: (height, width) in pixels that it must have.

    Raises:
        BadRecord: it is no RLE, its runs do not fill its size, or that is not the frame's.
    """
    if not isinstance(value, dict) or not {"size", "counts"} <= value.keys():
        raise BadRecord(f"{where} is {shortened(value)}, expected an RLE with size and counts")
    size, counts = value["size"], value["counts"]
    if not isinstance(size, (list, tuple)) or [type(side) for side in size] != [int, int]:
        raise BadRecord(f"{where}: its RLE has the size {shortened(size)}, expected [height, width]")
    if tuple(size) != frame:
        raise BadRecord(
            f"{where}: its RLE has {size[1]}x{size[0]} pixels, but the labels' frame is {frame[1]}x{frame[0]}"
        )
    pixels = frame[0] * frame[1]
    if isinstance(counts, list):
        if not all(type(run) is int and run >= 0 for run in counts) or sum(counts) != pixels:
            raise BadRecord(f"{where}: its RLE has runs that do not add up to {pixels} pixels: {shortened(counts)}")
        counts = coco.frPyObjects({"size": list(size), "counts": counts}, *frame)["counts"]
    text = counts.decode("ascii", "replace") if isinstance(counts, bytes) else counts
    # pycocotools does not check this: it would draw whatever lies in memory.
    try:
        fills = isinstance(text, str) and text.isascii() and pixels_of(text) == pixels
    except (IndexError, ValueError):
        fills = False
    if not fills:
        raise BadRecord(f"{where}: its RLE has counts that do not fill {pixels} pixels: {shortened(counts)}")
    return {"size": list(frame), "counts": text}


def united(rles: list[dict[str, Any]]) -> dict[str, Any]:
    """The union of checked RLEs of one frame; one alone stays as it is."""
    if len(rles) == 1:
        return rles[0]
    merged = coco.merge(rles)
    return {"size": [int(side) for side in merged["size"]], "counts": merged["counts"].decode("ascii")}
