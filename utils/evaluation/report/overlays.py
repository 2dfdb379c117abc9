"""Results to read, to process and to look at: tables, JSON, overlays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.runtime.files import write_file

TITLES = {
    "overall": "",
    "by_reasoning_type": "reasoning type",
    "by_target_size": "target size",
    "by_altitude": "altitude (m)",
}
PREDICTED, ANNOTATED = (255, 32, 208), (0, 216, 255)  # magenta, cyan: not the colour of roofs, cars or trees
PANEL_WIDTHS = (360, 640)  # least and most pixels of a picture beside others
FONT_SIZE, MARGIN = 15, 6


def table(scores: dict[str, dict]) -> str:
    """`utils.evaluation.metrics.breakdowns` as aligned text: count, gIoU, cIoU in each row."""
    lines = [f"{'':<28}{'count':>7}{'gIoU':>9}{'cIoU':>9}"]
    for key, title in TITLES.items():
        groups = {"overall": scores[key]} if key == "overall" else scores.get(key, {})
        if title and groups:
            lines.append(title)
        for name, one in groups.items():
            label = f"  {name}" if title else name
            lines.append(f"{label:<28}{one['count']:>7}{one['giou']:>9.4f}{one['ciou']:>9.4f}")
    return "\n".join(lines)


def write_json(path: Path, value: Any) -> None:
    """Write a file beside the target and rename it, so that a reader never sees half of one.

    Raises:
        ValueError: a number in `value` is not finite, which JSON cannot hold.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    write_file(path, f"{text}\n".encode())


def write_picture(path: Path, image: np.ndarray) -> None:
    """Write uint8[H, W, 3] RGB or uint8[H, W], the format by the file's suffix, beside and renamed.

    Raises:
        OSError: the picture could not be written.
    """
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    done, data = cv2.imencode(path.suffix, pixels)
    if not done:
        raise OSError(f"{path}: OpenCV cannot encode this picture")
    write_file(path, data.tobytes())


def paint(image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """A copy of uint8[H, W, 3] with the mask (bool or uint8[H, W]) tinted and outlined, holes included."""
    painted = image.copy()
    inside = mask.astype(bool)
    painted[inside] = (0.55 * painted[inside] + 0.45 * np.array(colour)).astype(np.uint8)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, round(max(mask.shape) / 300))
    return cv2.drawContours(np.ascontiguousarray(painted), outlines, -1, colour, thickness)


def side_by_side(image: np.ndarray, prediction: np.ndarray, truth: np.ndarray, caption: str) -> np.ndarray:
    """Frame, prediction (magenta) and ground truth (cyan) beside each other under the question.

    Args:
        image: uint8[H, W, 3], RGB.
        prediction: uint8[H, W]
        truth: uint8[H, W]
        caption: what is written above, in as many lines as it needs.

    Returns:
        uint8[h, w, 3]; each of the three parts is PANEL_WIDTHS wide
    """
    least, most = PANEL_WIDTHS
    width = min(max(image.shape[1], least), most)
    size = (width, max(1, round(image.shape[0] * width / image.shape[1])))
    frame = cv2.resize(image, size, interpolation=cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_CUBIC)
    # Painted at the size it is shown at, or the outline of a small target would be scaled away.
    predicted = paint(frame, _scale_mask(prediction == 1, size), PREDICTED)
    annotated = paint(frame, _scale_mask(truth == 1, size), ANNOTATED)
    titled = [
        np.vstack([_text(title, width, colour), panel])
        for title, colour, panel in (
            ("frame", (0, 0, 0), frame),
            ("prediction", (176, 0, 144), predicted),
            ("ground truth", (0, 112, 144), annotated),
        )
    ]
    row = np.hstack(titled)
    return np.vstack([_text(caption, row.shape[1]), row])


def _scale_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool[H, W] -> bool[h, w] for size (w, h); a mask that is shrunk keeps every pixel it touches."""
    shrinks = size[0] < mask.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST
    return cv2.resize(mask.astype(np.float32), size, interpolation=how) > 0


def _text(text: str, width: int, colour: tuple[int, int, int] = (0, 0, 0)) -> np.ndarray:
    """Text on white, wrapped at `width` pixels: uint8[h, width, 3]."""
    font = _font()
    lines = _wrapped(text, width - 2 * MARGIN, font.getlength)
    step = FONT_SIZE + 5
    picture = Image.new("RGB", (width, step * len(lines) + MARGIN), (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    for i, line in enumerate(lines):
        draw.text((MARGIN, MARGIN // 2 + i * step), line, fill=colour, font=font)
    return np.asarray(picture)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The system's DejaVu, which has most scripts; without it Pillow's own, which has ASCII."""
    try:
        return ImageFont.truetype("DejaVuSans.ttf", FONT_SIZE)
    except OSError:
        return ImageFont.load_default(FONT_SIZE)


def _wrapped(text: str, width: float, length: Any) -> list[str]:
    """Lines of at most `width` by `length`, cut between words, within a word only where it alone is wider."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if length(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and length(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines
