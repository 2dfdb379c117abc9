"""utils.datasets.label_masks: masks kept as pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from tests.utils.datasets.formats.drawn_pictures import boxed, save_mask
from utils.datasets.base import BadRecord
from utils.datasets.label_masks import read_label_mask

BOX = (3, 4, 9, 10)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "P", "I;16"])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_every_kind_of_picture_gives_the_same_mask(tmp_path: Path, mode: str, ending: str) -> None:
    file = tmp_path / f"a.{ending}"
    if mode == "I;16":
        Image.fromarray(boxed(BOX).astype(np.uint16)).save(file)  # of value 1, which 8 bits would lose
    else:
        Image.fromarray(boxed(BOX, value=255)).convert(mode).save(file)
    mask = read_label_mask("a", file)
    assert (coco.decode(mask.rle) == boxed(BOX)).all()
    assert (mask.pixels, mask.other, mask.frame) == (36, 0, (30, 40)) and isinstance(mask.rle["counts"], str)


def test_values_that_mean_nothing_are_background_and_counted(tmp_path: Path) -> None:
    values = boxed(BOX, value=255)
    values[0, :3] = 1, 7, 254
    save_mask(tmp_path / "a.png", values)
    some, every = read_label_mask("a", tmp_path / "a.png", (1, 255)), read_label_mask("a", tmp_path / "a.png")
    assert (some.pixels, some.other, every.pixels, every.other) == (37, 2, 39, 0)
    assert (coco.decode(some.rle) == np.isin(values, (1, 255))).all()


def test_an_empty_mask_has_no_pixels(tmp_path: Path) -> None:
    save_mask(tmp_path / "a.png", boxed(None))
    assert read_label_mask("a", tmp_path / "a.png").pixels == 0


def test_a_missing_or_damaged_mask_is_a_bad_record(tmp_path: Path) -> None:
    with pytest.raises(BadRecord, match=r"^line 3: its mask .*a\.png is missing$"):
        read_label_mask("line 3", tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(BadRecord, match=r"^line 3: its mask .*a\.png: damaged or no picture"):
        read_label_mask("line 3", tmp_path / "a.png")
