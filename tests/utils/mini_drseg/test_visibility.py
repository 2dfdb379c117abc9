"""utils.mini_drseg.visibility: targets are what the picture shows of them."""

from __future__ import annotations

import cv2
import numpy as np

from tests.utils.mini_drseg.drawn import Drawn
from utils.datasets.base import Sample, target_masks


def test_targets_are_in_the_frame_and_not_empty(samples: dict[str, list[Sample]]) -> None:
    for sample in sum(samples.values(), []):
        (target,) = sample.targets
        for polygon in target:
            assert min(polygon) >= 0 and max(polygon[0::2]) <= sample.width and max(polygon[1::2]) <= sample.height
        share = target_masks(sample, sample.height, sample.width).mean()
        assert 0.002 < share < 0.14


def test_targets_are_what_shows_of_them(many: list[Drawn]) -> None:
    for one in many:
        for _, candidate, _ in one.asked:
            mask, shown = one.mask(candidate), one.picture.ids == candidate.target.index + 1
            assert (mask & shown).sum() >= 0.9 * (mask | shown).sum()
            # nothing that is drawn over the target belongs to it, but for holes of a few pixels
            over = mask & (one.picture.ids > 0) & ~shown
            assert over.sum() <= 0.06 * mask.sum()
            assert (
                one.scene.camera.width == mask.shape[1]
                and candidate.target.thing is one.scene.things[candidate.target.index]
            )


def test_some_targets_are_partly_hidden(many: list[Drawn]) -> None:
    """Or the test above would say little about things in front."""
    hidden = 0
    for one in many:
        for _, candidate, _ in one.asked:
            whole = np.zeros(one.picture.ids.shape, np.uint8)
            cv2.fillConvexPoly(whole, one.picture.outlines[candidate.target.index].round().astype(np.int32), 1)
            others = (one.picture.ids > 0) & (one.picture.ids != candidate.target.index + 1)
            hidden += (whole.astype(bool) & others).sum() > 0.08 * whole.sum()
    assert hidden >= 5
