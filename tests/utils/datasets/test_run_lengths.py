"""utils.datasets.run_lengths: what pycocotools may be given."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco

from model.masks import encode_mask
from utils.datasets.base import BadRecord
from utils.datasets.run_lengths import checked_rle, fills


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.99, 1.0])
def test_what_pycocotools_writes_fills_its_size_and_no_other(share: float) -> None:
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (3, 50), (400, 300)):
        rle = encode_mask(rng.random((height, width)) < share)
        assert checked_rle("here", rle) == rle
        assert not fills(rle["counts"], height * width + 1) and not fills(rle["counts"], height * width - 1)


def test_lists_are_compressed() -> None:
    rle = checked_rle("here", {"size": [2, 3], "counts": [1, 2, 3]})
    assert coco.decode(rle).T.ravel().tolist() == [0, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("counts", ["", "é", "0" * 3, "P", "PPPPPPPPPP0", "\x10", "OO0", None, 3, [1, -1, 6], [1, 2]])
def test_what_does_not_fill_its_size_is_refused(counts: object) -> None:
    with pytest.raises(BadRecord, match="here: its counts .* do not fill 3x2 pixels"):
        checked_rle("here", {"size": [2, 3], "counts": counts})


@pytest.mark.parametrize("value", [None, [], {"counts": "6"}, {"size": [2], "counts": "6"}])
def test_other_things_are_no_run_lengths(value: object) -> None:
    with pytest.raises(BadRecord, match="here is .*, expected run lengths"):
        checked_rle("here", value)
