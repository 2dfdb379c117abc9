"""utils.datasets.run_lengths: COCO's RLE as label files hold them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from tests.utils.datasets.formats.drawn_pictures import boxed
from utils.datasets.base import BadRecord
from utils.datasets.run_lengths import checked_rle

FRAME = (30, 40)
MASK = boxed((3, 4, 9, 10))
RLE = coco.encode(np.asfortranarray(MASK))
LENGTHS = [int(n) for n in np.diff(np.flatnonzero(np.diff(np.r_[2, MASK.T.ravel(), 2])))]


@pytest.mark.parametrize("counts", [RLE["counts"], RLE["counts"].decode(), LENGTHS], ids=["bytes", "text", "lengths"])
def test_every_form_gives_text(counts: Any) -> None:
    assert checked_rle("a", {"size": [30, 40], "counts": counts}, FRAME) == {
        "size": [30, 40],
        "counts": RLE["counts"].decode(),
    }


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([1, 2], r"expected run lengths with size and counts"),
        ({"counts": "1"}, r"expected run lengths with size and counts"),
        ({"size": [40, 30], "counts": RLE["counts"]}, r"of size \[40, 30\], its frame is \[30, 40\]"),
        ({"size": 5, "counts": RLE["counts"]}, r"of size 5"),
        ({"size": [30, 40], "counts": [1200, 1]}, r"do not fill the frame of 40x30"),
        ({"size": [30, 40], "counts": [-1, 1201]}, r"do not fill the frame of 40x30"),
        ({"size": [30, 40], "counts": ["a"]}, r"do not fill the frame of 40x30"),
        ({"size": [30, 40], "counts": RLE["counts"].decode() + "5"}, r"are broken, or do not fill the frame of 40x30"),
        ({"size": [30, 40], "counts": RLE["counts"].decode()[:-1] + "`"}, r"are broken"),
        ({"size": [30, 40], "counts": "é"}, r"are broken"),
        ({"size": [30, 40], "counts": 5}, r"are broken"),
        ({"size": [30, 40], "counts": b"\xff"}, r"are broken"),
    ],
)
def test_what_would_make_pycocotools_write_beyond_the_frame_is_refused(value: Any, told: str) -> None:
    with pytest.raises(BadRecord, match=f"^record 3.*{told}"):
        checked_rle("record 3", value, FRAME)
