"""utils.mini_drseg.scene: the camera of the drawn scenes."""

from __future__ import annotations

from collections import Counter

from tests.utils.mini_drseg.drawn import PICTURES, Drawn


def test_all_altitudes_occur(many: list[Drawn]) -> None:
    counts = Counter(one.scene.camera.altitude for one in many)
    assert set(counts) == {30, 60, 100} and min(counts.values()) > PICTURES / 10
