"""Frames of the size of DRSeg's, made of noise, in DRSeg's layout: what the benchmark reads without data."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from model.inputs.images import write_image
from utils.datasets.drseg import REASONING_TYPES

WIDTH, HEIGHT = 1920, 1080
QUESTIONS = (
    "Which vehicle is parked closest to the building entrance?",
    "What would take a school class to town, and where does it stand?",
    "Identify the object that could block the emergency lane.",
)


def write_frames(folder: Path, count: int, seed: int) -> None:
    """A test split of `count` frames, with one question and one target each."""
    rng = np.random.default_rng(seed)
    records = []
    for number in range(count):
        name = f"frame_{number:04d}"
        picture = folder / "CODrone" / "DRtest" / f"{name}.jpg"
        picture.parent.mkdir(parents=True, exist_ok=True)
        write_image(picture, noise(rng))
        records.append(
            {
                "id": name,
                "height": HEIGHT,
                "width": WIDTH,
                "ann_list": [{"segmentation": target(rng)}],
                "questions": [QUESTIONS[number % len(QUESTIONS)]],
                "answers": [None],
                "reasoning_types": [REASONING_TYPES[number % len(REASONING_TYPES)]],
            }
        )
    (folder / "labels").mkdir()
    (folder / "labels" / "DRSeg_test.json").write_text(json.dumps(records))


def noise(rng: np.random.Generator) -> np.ndarray:
    """uint8[H, W, 3]: coarse patches with finer ones on top, so that its JPEG is about as large as a photograph's."""
    picture = np.full((HEIGHT, WIDTH, 3), 128, np.float32)
    for cell, strength in ((120, 50), (12, 25), (2, 8)):
        patches = rng.standard_normal((HEIGHT // cell, WIDTH // cell, 3), np.float32)
        picture += strength * cv2.resize(patches, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return picture.clip(0, 255).astype(np.uint8)


def target(rng: np.random.Generator) -> list[float]:
    """A hexagon that covers up to 2 % of the frame, as most targets of DRSeg do."""
    radius = rng.uniform(20, 110)
    centre = rng.uniform((radius, radius), (WIDTH - radius, HEIGHT - radius))
    angles = np.arange(6) * np.pi / 3
    points = centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return points.ravel().round(1).tolist()
