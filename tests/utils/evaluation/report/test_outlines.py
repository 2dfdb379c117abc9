"""utils.evaluation.report.outlines: paths that cover what their masks cover."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from model.masks import encode_mask
from tests.utils.evaluation.report.evaluated import make_samples, pixels
from utils.evaluation.report.outlines import VIEW, OutlineTask, outline, record_outlines, view_size


def painted(path: str, height: int, width: int) -> np.ndarray:
    """bool[h, w]: an SVG path filled by the even-odd rule, in its own units."""
    size = view_size(height, width)
    filled = np.zeros(size[::-1], bool)
    for start, steps in re.findall(r"M(\d+ \d+)(?:l([^z]*))?z", path):
        points = [np.array([int(n) for n in start.split()])]
        numbers = [int(n) for n in re.findall(r"-?\d+", steps)]
        for step in zip(numbers[::2], numbers[1::2], strict=True):
            points.append(points[-1] + step)
        part = np.zeros(size[::-1], np.uint8)
        cv2.fillPoly(part, [np.array(points, np.int32)], 1)
        filled ^= part.astype(bool)
    return filled


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.parametrize(("size", "least"), [((90, 120), 0.94), ((600, 400), 0.98), ((1500, 2400), 0.98)])
def test_a_path_covers_what_its_mask_covers_with_holes_and_parts(size: tuple[int, int], least: float) -> None:
    height, width = size
    mask = np.zeros(size, np.uint8)
    cv2.circle(mask, (width // 3, height // 2), min(size) // 4, 1, -1)
    cv2.circle(mask, (width // 3, height // 2), min(size) // 8, 0, -1)
    mask[: height // 6, width * 3 // 4 :] = 1
    expected = cv2.resize(mask, view_size(*size), interpolation=cv2.INTER_NEAREST) == 1
    path = outline(mask)
    assert path.count("M") == 3 and overlap(painted(path, *size), expected) > least
    assert outline(mask.astype(bool)) == path


def test_an_empty_mask_has_no_path_and_a_single_pixel_has_one() -> None:
    mask = np.zeros((2160, 3840), np.uint8)
    assert outline(mask) == ""
    mask[1080, 1920] = 1
    assert outline(mask) == f"M{VIEW // 2} {VIEW * 9 // 32}z"


def test_a_long_path_is_simplified_and_keeps_its_largest_part() -> None:
    generator = np.random.default_rng(0)
    mask = (cv2.GaussianBlur(generator.normal(size=(512, 512)), (0, 0), 3) > 0.15).astype(np.uint8)
    cv2.circle(mask, (256, 256), 100, 1, -1)
    large, full = np.zeros_like(mask), outline(mask, 10**6)
    cv2.circle(large, (256, 256), 100, 1, -1)
    expected = cv2.resize(large, view_size(512, 512)) == 1
    for longest in (3000, 600):
        path = outline(mask, longest)
        assert len(path) <= longest < len(full)
        assert (painted(path, 512, 512) & expected).sum() > 0.9 * expected.sum()


def test_a_record_has_paths_of_its_targets_and_masks(tmp_path: Path) -> None:
    sample = make_samples(tmp_path)["r1"]
    other = (2.0, 2.0, 12.0, 2.0, 12.0, 12.0, 2.0, 12.0)
    two = replace(sample, targets=(*sample.targets, (other,)))
    found = record_outlines(OutlineTask(two, False, (encode_mask(pixels(10)),), 3000))
    assert len(found.targets) == 2 and len(found.predicted) == 1
    square = cv2.resize(pixels(40), view_size(90, 120), interpolation=cv2.INTER_NEAREST) == 1
    assert overlap(painted(found.targets[0], 90, 120), square) > 0.93
    merged = record_outlines(OutlineTask(two, True, (), 3000))
    assert len(merged.targets) == 1 and merged.targets[0].count("M") == 2


def test_a_target_too_small_for_the_drawing_is_drawn(tmp_path: Path) -> None:
    sample = make_samples(tmp_path)["r1"]
    tiny = (3000.2, 1500.2, 3001.4, 1500.2, 3001.4, 1501.4, 3000.2, 1501.4)
    large = replace(sample, targets=((tiny,),), height=2160, width=3840)
    rle = encode_mask(np.zeros((2160, 3840), np.uint8))
    found = record_outlines(OutlineTask(large, False, (rle,), 3000))
    assert found.predicted == ("",) and re.fullmatch(r"M80\d 40\d.*z", found.targets[0])
