"""utils.evaluation.canvas: worked out on squares of a few pixels."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco

from model.masks import encode_mask
from utils.evaluation.canvas import CANVASES, canvas_size, on_canvas


def drawn(height: int, width: int, *boxes: tuple[int, int, int, int]) -> dict:
    """A mask of boxes x0, y0, x1, y1."""
    mask = np.zeros((height, width), np.uint8)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = 1
    return encode_mask(mask)


def area(mask: dict) -> int:
    return int(coco.area(mask))


def test_sizes() -> None:
    found = {canvas: canvas_size((300, 400), canvas) for canvas in CANVASES}
    assert found == {
        **{"picture": (300, 400), "square480": (480, 480), "letterbox1024": (768, 1024)},
        **{"box": (300, 400), "box_grid": (101, 101)},
    }
    with pytest.raises(ValueError, match="picture, square480, letterbox1024, box, box_grid, not on 'round'"):
        canvas_size((3, 4), "round")


def test_a_mask_of_the_picture_stays_and_nothing_stays_nothing() -> None:
    mask = drawn(30, 40, (3, 4, 7, 8))
    assert on_canvas([mask], "picture") == [mask] and on_canvas([], "square480") == []
    (same,) = on_canvas([drawn(480, 480, (3, 4, 77, 88))], "square480")
    assert same == drawn(480, 480, (3, 4, 77, 88))


def test_a_stretched_mask_keeps_its_share_of_either_side() -> None:
    (found,) = on_canvas([drawn(240, 960, (0, 0, 480, 60))], "square480")
    assert found == drawn(480, 480, (0, 0, 240, 120))


def test_a_letterboxed_mask_keeps_its_proportions_and_has_no_padding() -> None:
    (found,) = on_canvas([drawn(256, 512, (0, 0, 100, 50))], "letterbox1024")
    assert found == drawn(512, 1024, (0, 0, 200, 100))


def test_a_box_goes_around_all_parts_of_a_mask() -> None:
    (found,) = on_canvas([drawn(30, 40, (2, 3, 4, 5), (10, 7, 12, 9))], "box")
    assert found == drawn(30, 40, (2, 3, 12, 9))
    (nothing,) = on_canvas([drawn(30, 40)], "box")
    assert area(nothing) == 0


def test_a_box_on_the_grid_has_both_ends_of_its_sides() -> None:
    """VRSBench's eval_utils adds 1 to each side: {<10><20><30><40>} has 21 x 21 cells."""
    (found,) = on_canvas([drawn(200, 400, (40, 40, 120, 80))], "box_grid")
    assert found == drawn(101, 101, (10, 20, 31, 41)) and area(found) == 21 * 21
    assert area(on_canvas([drawn(200, 400)], "box_grid")[0]) == 0
