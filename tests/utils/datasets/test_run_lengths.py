"""utils.datasets.run_lengths: targets as COCO run lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from model.masks import encode_mask
from utils.datasets.base import BadRecord
from utils.datasets.run_lengths import checked_rle, united

MASK = np.zeros((6, 8), np.uint8)
MASK[1:3, 2:5] = 1
RLE = encode_mask(MASK)
RUNS = [13, 2, 4, 2, 4, 2, 21]


@pytest.mark.parametrize("counts", [RLE["counts"], RLE["counts"].encode(), RUNS])
def test_text_bytes_and_runs_are_the_same_target(counts: Any) -> None:
    assert checked_rle("x", {"size": (6, 8), "counts": counts}, (6, 8)) == RLE


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], r"is \[1, 2\], expected an RLE"),
        ({"size": [6, 8]}, "expected an RLE with size and counts"),
        ({**RLE, "size": [6]}, r"the size \[6\], expected \[height, width\]"),
        ({**RLE, "size": [6, True]}, r"the size \[6, True\]"),
        ({**RLE, "size": [8, 6]}, "6x8 pixels, but the labels' frame is 8x6"),
        ({**RLE, "counts": RLE["counts"][:-1]}, "do not fill 48 pixels"),
        ({**RLE, "counts": ""}, "do not fill 48 pixels: ''"),
        ({**RLE, "counts": "é"}, "do not fill"),
        ({**RLE, "counts": b"\xff\xfe"}, "do not fill"),
        ({**RLE, "counts": None}, "do not fill 48 pixels: None"),
        ({**RLE, "counts": [48, 1]}, r"do not add up to 48 pixels: \[48, 1\]"),
        ({**RLE, "counts": [-1, 49]}, "do not add up"),
        ({**RLE, "counts": [47.5, 0.5]}, "do not add up"),
    ],
)
def test_what_does_not_fill_the_frame_is_refused(value: Any, message: str) -> None:
    with pytest.raises(BadRecord, match=rf"^refs\.p: ref 3.* {message}"):
        checked_rle("refs.p: ref 3", value, (6, 8))


def test_several_are_united() -> None:
    other = np.zeros_like(MASK)
    other[2:5, 4:7] = 1
    both = united([RLE, encode_mask(other)])
    assert isinstance(both["counts"], str) and (coco.decode(both) == (MASK | other)).all()
    assert united([RLE]) is RLE
