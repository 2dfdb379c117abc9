"""COCO run lengths as label files hold them, checked before pycocotools reads them: it trusts what it is given."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco

from utils.datasets.base import BadRecord
from utils.datasets.checks import checked_frame, shortened


def checked_rle(where: str, value: Any) -> dict[str, Any]:
    """Run lengths with `counts` as text and `size` as [height, width]; lists of counts are compressed.

    Raises:
        BadRecord: they are no run lengths, or do not fill their size.
    """
    if not isinstance(value, dict) or not isinstance(value.get("size"), list) or len(value["size"]) != 2:
        raise BadRecord(f'{where} is {shortened(value)}, expected run lengths {{"size": [height, width], "counts": …}}')
    height, width = checked_frame(where, *value["size"])
    counts = value.get("counts")
    if isinstance(counts, list):
        if not all(type(run) is int and run >= 0 for run in counts) or sum(counts) != height * width:
            raise BadRecord(f"{where}: its counts {shortened(counts)} do not fill {width}x{height} pixels")
        counts = coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"].decode("ascii")
    elif not isinstance(counts, str) or not fills(counts, height * width):
        raise BadRecord(f"{where}: its counts {shortened(counts)} do not fill {width}x{height} pixels")
    return {"size": [height, width], "counts": counts}


def fills(counts: str, pixels: int) -> bool:
    """Whether compressed run lengths are whole, none negative, and fill so many pixels.

    A run is written in groups of five bits from the lowest, each a character from 48 on whose sixth bit says that
    another follows, the last one's fifth bit being the sign; from the fourth run on it is written as the difference
    to the run before the last.
    """
    if not counts or not counts.isascii():
        return False
    bits = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((bits & 32) == 0)
    if bits.min() < 0 or bits.max() > 63 or len(ends) == 0 or ends[-1] != len(bits) - 1:
        return False
    starts = np.concatenate([[0], ends[:-1] + 1])
    places = np.arange(len(bits)) - np.repeat(starts, ends - starts + 1)
    if places.max() > 6:  # more than 35 bits are no run of pixels
        return False
    runs = np.add.reduceat((bits & 31) << (5 * places), starts)
    runs -= np.where(bits[ends] & 16, 1 << (5 * (places[ends] + 1)), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return bool(runs.min() >= 0 and runs.sum() == pixels)
