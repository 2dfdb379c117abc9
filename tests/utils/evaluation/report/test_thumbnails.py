"""utils.evaluation.report.thumbnails and workers: pictures within their bytes, in their order."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.evaluation.report.thumbnails import SIDES, ThumbnailTask, thumbnail
from utils.evaluation.report.workers import MANY, mapped
from utils.runtime.errors import UserError


def read_back(text: str) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """1600 x 900, at the left noise that stays noise when it is shrunk, red at the right."""
    coarse = np.random.default_rng(0).integers(0, 255, (90, 160, 3)).astype(np.uint8)
    pixels = coarse.repeat(10, axis=0).repeat(10, axis=1)
    pixels[:, 800:] = (200, 30, 30)
    Image.fromarray(pixels).save(tmp_path / "frame.jpg", quality=92)
    return tmp_path / "frame.jpg"


@pytest.mark.parametrize("most", [60_000, 8_000, 2_500])
def test_a_thumbnail_stays_within_its_bytes_and_shows_its_picture(picture: Path, most: int) -> None:
    text = thumbnail(ThumbnailTask(picture, True, most))
    shown = read_back(text)
    assert len(base64.b64decode(text)) <= most
    assert shown.shape[1] / shown.shape[0] == pytest.approx(16 / 9, rel=0.05)
    assert np.abs(shown[:, -shown.shape[1] // 4 :].reshape(-1, 3).mean(axis=0) - (200, 30, 30)).max() < 12


def test_more_bytes_give_a_larger_picture_up_to_a_limit(picture: Path) -> None:
    widths = [read_back(thumbnail(ThumbnailTask(picture, True, most))).shape[1] for most in (2_000, 20_000, 10**7)]
    assert widths[0] < widths[1] < widths[2] == SIDES[1]


def test_a_small_picture_is_not_enlarged_and_is_turned_as_its_tag_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40), (10, 200, 10)).save(tmp_path / "turned.jpg", exif=exif)
    for upright, shape in ((True, (60, 40)), (False, (40, 60))):
        assert read_back(thumbnail(ThumbnailTask(tmp_path / "turned.jpg", upright, 50_000))).shape[:2] == shape


def test_many_tasks_are_done_in_order_and_errors_are_raised(tmp_path: Path, picture: Path) -> None:
    shades = list(range(0, 2 * MANY))
    tasks = []
    for shade in shades:
        path = tmp_path / f"{shade}.png"
        Image.new("RGB", (64, 64), (shade, shade, shade)).save(path)
        tasks.append(ThumbnailTask(path, True, 5_000))
    assert [round(read_back(text).mean()) for text in mapped(thumbnail, tasks)] == pytest.approx(shades, abs=2)
    (tmp_path / "7.png").unlink()
    with pytest.raises(UserError, match=r"7\.png: no such picture"):
        list(mapped(thumbnail, tasks))
