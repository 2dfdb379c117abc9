"""What the tests of the drawn data set share: drawn pictures with their labels, and hashes of a folder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools import mask as coco

from model.masks import polygons_rle
from utils.mini_drseg.other_questions import OtherQuestion
from utils.mini_drseg.questions import Candidate
from utils.mini_drseg.render import Picture
from utils.mini_drseg.scene import Scene

COUNTS = {"train": 12, "val": 6, "test": 5}  # the last group of the test split is cut short
PICTURES = 80  # drawn for what is true of many


def contents(folder: Path) -> dict[str, str]:
    """Hashes of all files of a folder, by name."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@dataclass
class Drawn:
    """A picture with what the generator knows of it and its questions."""

    scene: Scene
    picture: Picture
    asked: list[tuple[str, Candidate, str]]
    others: dict[str, tuple[OtherQuestion, str]]

    def mask(self, candidate: Candidate) -> np.ndarray:
        """bool[H, W]: a target as its polygons draw it."""
        camera = self.scene.camera
        polygons = tuple(map(tuple, candidate.target.polygons))
        rle = polygons_rle(polygons, (camera.height, camera.width), (camera.height, camera.width))
        return coco.decode(rle).astype(bool)
