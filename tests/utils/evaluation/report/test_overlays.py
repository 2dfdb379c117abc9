"""utils.evaluation.report.overlays: pictures that show what they say."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageFont

from model.masks import ANNOTATED, PREDICTED
from utils.evaluation.report import overlays as report
from utils.evaluation.report.overlays import PANEL_WIDTHS, side_by_side

FRAME = np.full((90, 120, 3), 100, np.uint8)


def mask_of(rows: slice, columns: slice, shape: tuple[int, int] = FRAME.shape[:2]) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[rows, columns] = 1
    return mask


def coloured(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """bool[H, W]: near the pure colour, as outlines are."""
    return (np.abs(picture.astype(int) - colour) < 30).all(axis=-1)


@pytest.mark.parametrize("shape", [(90, 120), (480, 640), (3000, 4000), (400, 100)])
def test_three_parts_side_by_side(shape: tuple[int, int]) -> None:
    height, width = shape
    frame = np.full((*shape, 3), 100, np.uint8)
    upper = mask_of(slice(height // 10, height // 3), slice(width // 4, width // 2), shape)
    lower = mask_of(slice(height // 2, height * 3 // 4), slice(width // 2, width * 3 // 4), shape)
    picture = side_by_side(frame, upper, lower, "Where?")
    panel = picture.shape[1] // 3
    assert PANEL_WIDTHS[0] <= panel <= PANEL_WIDTHS[1] and picture.shape[1] == 3 * panel
    high = round(height * panel / width)
    parts = [picture[-high:, i * panel : (i + 1) * panel] for i in range(3)]
    predicted, annotated = coloured(parts[1], PREDICTED), coloured(parts[2], ANNOTATED)
    assert (parts[0] == 100).all()
    assert predicted[: int(high * 0.4)].any() and not predicted[int(high * 0.4) :].any()
    assert annotated[int(high * 0.45) :].any() and not annotated[: int(high * 0.45)].any()
    assert not coloured(parts[1], ANNOTATED).any() and not coloured(parts[2], PREDICTED).any()


def test_a_target_of_a_few_pixels_is_seen_in_a_large_frame() -> None:
    frame = np.full((3000, 4000, 3), 100, np.uint8)
    tiny = mask_of(slice(0, 2), slice(0, 2), (3000, 4000))
    picture = side_by_side(frame, tiny * 0, tiny, "?")
    assert coloured(picture[-480:, -640:], ANNOTATED)[:4, :4].any()


def test_pixels_that_are_ignored_are_not_shown_as_target() -> None:
    picture = side_by_side(FRAME, np.zeros_like(FRAME[..., 0]), np.full((90, 120), 255, np.uint8), "?")
    assert (picture[-270:, -360:] == 100).all()


def test_a_long_caption_is_wrapped_and_loses_nothing() -> None:
    words = "Which of the vehicles beyond the crossing, Überweg or bridge, would have to wait the longest? " * 4
    lines = report._wrapped(words, 300, lambda text: 7 * len(text))
    assert " ".join(lines) == " ".join(words.split()) and max(map(len, lines)) * 7 <= 300 and len(lines) > 4
    assert report._wrapped("ab" * 50 + " c", 70, lambda text: 7 * len(text))[:2] == ["ab" * 5] * 2
    assert report._wrapped("", 70, len) == [""]
    short, long = (side_by_side(FRAME, FRAME[..., 0] * 0, FRAME[..., 0] * 0, text) for text in ("?", words))
    assert long.shape[0] > short.shape[0] and long.shape[1] == short.shape[1]
    last = long[long.shape[0] - short.shape[0] : long.shape[0] - 270 - 30]
    assert (last < 100).any()  # letters in the added lines


def test_captions_with_and_without_a_font_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    has_dejavu = "DejaVu" in report._font().getname()[0]
    drawn = [report._text(text, 200) for text in ("u", "o", "ü", "ö")]
    assert len({picture.tobytes() for picture in drawn}) == (4 if has_dejavu else 3)

    truetype = ImageFont.truetype

    def missing(font: object, *rest: object, **named: object) -> object:
        if isinstance(font, str):
            raise OSError("cannot open resource")
        return truetype(font, *rest, **named)  # Pillow's own comes this way too, from memory

    monkeypatch.setattr(ImageFont, "truetype", missing)
    plain = [report._text(text, 200) for text in ("u", "o", "")]
    assert len({picture.tobytes() for picture in plain}) == 3
