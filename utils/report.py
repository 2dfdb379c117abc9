"""Results to read, to process and to look at: tables, JSON, overlays."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

TITLES = {
    "overall": "",
    "by_reasoning_type": "reasoning type",
    "by_target_size": "target size",
    "by_altitude": "altitude (m)",
}
PREDICTED, ANNOTATED = (255, 64, 64), (64, 220, 96)  # RGB
CAPTION_HEIGHT = 28


def table(scores: dict[str, dict]) -> str:
    """`utils.metrics.breakdowns` as aligned text: count, gIoU, cIoU in each row."""
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
    """Write beside the target and rename, so that a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.writing")
    beside.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(beside, path)


def write_picture(path: Path, image: np.ndarray) -> None:
    """Write uint8[H, W, 3] RGB or uint8[H, W], the format by the file's suffix, beside and renamed.

    Raises:
        OSError: the picture could not be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    done, data = cv2.imencode(path.suffix, pixels)
    if not done:
        raise OSError(f"{path}: OpenCV cannot encode this picture")
    beside = path.with_name(f".{path.name}.writing")
    beside.write_bytes(data.tobytes())
    os.replace(beside, path)


def paint(image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """A copy of uint8[H, W, 3] with the mask (uint8[H, W]) tinted and outlined."""
    painted = image.copy()
    inside = mask.astype(bool)
    painted[inside] = (0.55 * painted[inside] + 0.45 * np.array(colour)).astype(np.uint8)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, round(max(mask.shape) / 500))
    return cv2.drawContours(np.ascontiguousarray(painted), outlines, -1, colour, thickness)


def side_by_side(image: np.ndarray, prediction: np.ndarray, truth: np.ndarray, caption: str) -> np.ndarray:
    """Frame, prediction (red) and ground truth (green) beside each other under the question.

    Args:
        image: uint8[H, W, 3], RGB.
        prediction: uint8[H, W]
        truth: uint8[H, W]
        caption: what is written above.

    Returns:
        uint8[h, w, 3]; each part is at most 640 pixels wide
    """
    parts = [image, paint(image, prediction, PREDICTED), paint(image, truth == 1, ANNOTATED)]
    width = min(640, image.shape[1])
    height = round(image.shape[0] * width / image.shape[1])
    row = np.hstack([cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA) for part in parts])
    head = np.full((CAPTION_HEIGHT, row.shape[1], 3), 255, np.uint8)
    cv2.putText(head, caption.encode("ascii", "replace").decode(), (6, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([head, row])
