"""Pictures of predictions beside the ground truth."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco

from model.inputs.images import read_image, write_image
from model.masks import ANNOTATED, PREDICTED, paint_mask
from utils.datasets.base import Sample, target_masks
from utils.evaluation.predictions import Record
from utils.runtime.errors import UserError
from utils.runtime.files import atomic_folder, write_errors_as_user_error
from utils.runtime.paths import entries, exists, fitting_name, has_content, is_folder

PANEL_WIDTHS = (360, 640)  # smallest and largest width of a panel in pixels
FONT_SIZE, MARGIN = 15, 6
OVERLAY_NAME = re.compile(r"\d{5,}_\d+_.*\.jpg")  # index, target and id


def side_by_side(image: np.ndarray, prediction: np.ndarray, truth: np.ndarray, caption: str) -> np.ndarray:
    """Frame, prediction (magenta) and ground truth (cyan) side by side under a caption.

    Args:
        image: uint8[H, W, 3], RGB.
        prediction: uint8[H, W]
        truth: uint8[H, W]
        caption: written above, wrapped.

    Returns:
        uint8[h, w, 3], three panels of a width within PANEL_WIDTHS
    """
    least, most = PANEL_WIDTHS
    width = min(max(image.shape[1], least), most)
    size = (width, max(1, round(image.shape[0] * width / image.shape[1])))
    frame = cv2.resize(image, size, interpolation=cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_CUBIC)
    # Painted after resizing, else the outline of a small target would vanish.
    predicted = paint_mask(frame, _scale_mask(prediction == 1, size), PREDICTED)
    annotated = paint_mask(frame, _scale_mask(truth == 1, size), ANNOTATED)
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


def check_own_overlays(folder: Path) -> None:
    """Check that a folder, if it is there, holds overlays alone.

    Raises:
        UserError: there is something else, which would be deleted.
    """
    others = [path for path in entries(folder) if not OVERLAY_NAME.fullmatch(path.name)]
    if exists(folder) and (others or not is_folder(folder)):
        what = f"{others[0].name} in it" if others else "it is no folder"
        raise UserError(f"{folder}: {what} is no overlay of eval.py and would be deleted; move it, or change --out")


def draw_overlays(
    folder: Path, count: int, samples: Sequence[Sample], records: dict[str, Record], lines: list[dict[str, Any]]
) -> None:
    """`count` pictures, spread evenly over the split; those of an earlier evaluation are replaced, none stay for 0.

    Args:
        folder: of the pictures.
        count: of them.
        samples: of the split.
        records: the predictions, by `Sample.key`.
        lines: of scores.jsonl; those of controls are left out.

    Raises:
        UserError: the folder holds something else, or they cannot be written.
    """
    check_own_overlays(folder)
    if not count and not has_content(folder):
        return
    places = {sample.key: place for place, sample in enumerate(samples)}
    lines = [line for line in lines if "control" not in line]
    with write_errors_as_user_error(folder), atomic_folder(folder) as beside:
        for position in np.linspace(0, len(lines) - 1, min(count, len(lines))).round().astype(int):
            line = lines[position]
            sample = samples[places[line["id"]]]
            image = read_image(sample.image_path, sample.upright)
            masks = records[sample.key]["masks"] if sample.key in records else []
            truth = target_masks(sample, *image.shape[:2], merge=line["merged"])
            target, mask = line["target"], line["mask"]
            nothing = np.zeros(image.shape[:2], np.uint8)
            predicted = [coco.merge(masks)] if line["merged"] and masks else masks
            picture = side_by_side(
                image,
                nothing if mask is None else coco.decode(predicted[mask]),
                nothing if target is None else truth[target],
                f"{sample.question}   IoU {line['iou']:.2f}",
            )
            name = re.sub(r"[^\w.-]", "_", sample.record_id)
            place = f"{places[sample.key]:05d}_{mask if target is None else target}"
            write_image(beside / fitting_name(beside, f"{place}_{name}", ".jpg"), picture)
