"""utils.mini_drseg.shapes: the faces of a thing that are turned to the camera, in the light of the scene."""

from __future__ import annotations

import numpy as np
import pytest

from utils.mini_drseg.planner import SIZES
from utils.mini_drseg.scene import Camera, Light, Thing
from utils.mini_drseg.shapes import SHAPES, Face, Modeller, model

CAMERA = Camera(30, np.deg2rad(40), 0.0, 800.0, 512, 384)  # looks north
LIGHT = Light(0.3, np.deg2rad(50), 0.5)
OTHER_SIZES = {"building": ((6.0, 9.0), (5.0, 7.0), (3.0, 5.0)), "tree": ((3.0, 4.0), (3.0, 4.0), (3.6, 4.4))}
ON_ROOF = 0.75  # metres that things on a roof may be high


def thing(kind: str = "container", colour: str = "green", **fields: object) -> Thing:
    return Thing(kind, colour, 0.0, 0.0, **{"heading": 0.0, "length": 6.0, "width": 2.4, "height": 2.5, **fields})


@pytest.mark.parametrize("kind", SHAPES)
def test_every_kind_lies_in_the_box_that_it_fills(kind: str) -> None:
    means = [sum(limits) / 2 for limits in {**SIZES, **OTHER_SIZES}[kind]]
    box = thing(kind, length=means[0], width=means[1], height=means[2])
    parts = model(box, CAMERA, LIGHT)
    assert parts
    for part in parts:
        points = part.points if isinstance(part, Face) else part.centre[None]
        assert (np.abs(points[:, :2]) <= np.array([box.length, box.width]) / 2 + 0.3).all()
        assert -0.01 <= points[:, 2].min() and points[:, 2].max() <= box.height + ON_ROOF
        assert all(0 <= value <= 255 for value in part.colour)


def test_faces_that_are_turned_away_are_left_out() -> None:
    modeller = Modeller(thing(), CAMERA, LIGHT, 1.0)
    modeller.box(-1, 1, -1, 1, 0, 1, (100, 100, 100))
    faces = [part.points for part in modeller.parts]
    assert len(faces) == 2  # of six: the top and the south side, straight north of the camera
    assert any((points[:, 2] == 1).all() for points in faces) and any((points[:, 1] == -1).all() for points in faces)


def test_a_level_face_keeps_its_colour_and_a_shadow_dims_it() -> None:
    up, away = np.array([0.0, 0.0, 1.0]), -LIGHT.direction
    lit, dimmed = (Modeller(thing(), CAMERA, LIGHT, dim) for dim in (1.0, 0.5))
    assert lit.shade((200, 100, 50), up) == pytest.approx((200, 100, 50))
    assert dimmed.shade((200, 100, 50), up) == pytest.approx((100, 50, 25))
    assert lit.shade((200, 100, 50), away)[0] < 200 and min(lit.shade((200, 100, 50), away)) > 0  # ambient light


def test_the_seed_determines_the_details() -> None:
    def colours(seed: int) -> list[tuple[float, ...]]:
        return [part.colour for part in model(thing("tree", length=4.0, width=4.0, seed=seed), CAMERA, LIGHT)]

    assert colours(1) == colours(1) and colours(1) != colours(2)
