"""utils.mini_drseg.planner: scenes that follow from the seed alone, in which nothing overlaps."""

from __future__ import annotations

from itertools import combinations

import cv2
import numpy as np
import pytest

from utils.mini_drseg.planner import SIZES, plan_scene
from utils.mini_drseg.scene import Scene, Thing

SCENES = 40


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [plan_scene(np.random.default_rng(seed)) for seed in range(SCENES)]


def overlap(first: Thing, second: Thing) -> float:
    """Square metres that two footprints share."""
    quads = (thing.footprint().astype(np.float32) for thing in (first, second))
    return cv2.intersectConvexConvex(*quads)[0]


def test_the_seed_determines_the_scene(scenes: list[Scene]) -> None:
    again = plan_scene(np.random.default_rng(1))
    assert again.camera == scenes[1].camera and again.things == scenes[1].things
    assert scenes[0].things != scenes[1].things


def test_things_do_not_overlap(scenes: list[Scene]) -> None:
    """The order in which they are painted relies on it; only a crossing lies under a vehicle."""
    pairs = 0
    for scene in scenes:
        for first, second in combinations([thing for thing in scene.things if thing.kind != "crossing"], 2):
            assert overlap(first, second) < 0.01, (first, second)
            pairs += 1
    assert pairs > 1000


def test_things_have_the_size_of_their_kind(scenes: list[Scene]) -> None:
    for thing in (thing for scene in scenes for thing in scene.things if thing.kind in SIZES):
        for size, (low, high) in zip((thing.length, thing.width, thing.height), SIZES[thing.kind], strict=True):
            assert low <= size <= high, thing


def test_a_vehicle_that_blocks_the_crossing_stands_on_it(scenes: list[Scene]) -> None:
    blocked = 0
    for scene in scenes:
        for vehicle in (thing for thing in scene.things if "on_crossing" in thing.tags):
            (crossing,) = [thing for thing in scene.things if thing.kind == "crossing"]
            assert overlap(vehicle, crossing) > 1
            blocked += 1
    assert blocked >= 3
