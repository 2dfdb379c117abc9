"""A small drawn set in a folder, and labels of many pictures; both drawn once a process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.utils.mini_drseg.drawn import COUNTS, PICTURES, Drawn
from utils.datasets.base import Sample
from utils.datasets.registry import load_dataset
from utils.mini_drseg import generate as mini_drseg
from utils.mini_drseg import render as mini_render
from utils.mini_drseg.generate import REASONING_TYPES, SPLITS, draw_picture, generate
from utils.mini_drseg.render import Picture, render
from utils.mini_drseg.scene import Scene


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set of questions with one target, drawn in this process."""
    out = tmp_path_factory.mktemp("mini") / "set"
    generate(out, COUNTS, seed=3, workers=1, kinds=REASONING_TYPES)
    return out


@pytest.fixture(scope="session")
def samples(folder: Path) -> dict[str, list[Sample]]:
    return {split: load_dataset(folder, split) for split in SPLITS}


@pytest.fixture(scope="session")
def many() -> list[Drawn]:
    """Labels of many pictures, whose ground and photograph are left out for speed."""
    last: list = []

    def watched(scene: Scene, rng: np.random.Generator) -> Picture:
        last[:] = [scene, render(scene, rng)]
        return last[1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mini_drseg, "render", watched)
        patch.setattr(mini_render, "_simulate_sensor", lambda canvas, camera, rng: canvas)
        patch.setattr(mini_render, "_texture", lambda canvas, material, camera, rng: canvas)
        drawn = []
        for number in range(PICTURES):
            _, camera, asked, others, _ = draw_picture(0, "train", number)
            assert camera is last[0].camera
            drawn.append(Drawn(*last, asked, others))
    return drawn
