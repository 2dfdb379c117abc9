"""utils.datasets.sheet: which samples are shown, and that targets can be seen on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from utils.datasets.base import Sample
from utils.datasets.registry import load_dataset
from utils.datasets.sheet import COLUMNS, TARGET_COLOURS, caption, choose, draw_sheet, draw_tile, question_lines


@pytest.fixture
def sample(make_drseg: Callable[..., Path], make_record: Callable[..., Any]) -> Sample:
    return load_dataset(make_drseg([make_record()]), "test")[0]


def test_every_kind_is_shown_and_pictures_take_turns(sample: Sample) -> None:
    kinds = ["common"] * 20 + ["rare"]
    many = [
        replace(sample, key=str(i), image_path=Path(f"{i % 4}.jpg"), groups={"kind": k}) for i, k in enumerate(kinds)
    ]
    chosen = choose([*many, replace(many[0], key="none", targets=())], 6, ["kind"])
    assert chosen.of == 22 and len(chosen.samples) == 6
    assert {one.groups["kind"] for one in chosen.samples} == {"common", "rare"}
    assert sum(not one.targets for one in chosen.samples) == 1
    assert len({one.image_path for one in chosen.samples}) == 4
    assert chosen == choose([many[0], *reversed(many[1:]), replace(many[0], key="none", targets=())], 6, ["kind"])
    assert len(choose(many, 99, []).samples) == 21


def test_targets_have_colours_of_their_own_on_the_picture(sample: Sample) -> None:
    two = replace(sample, targets=(sample.targets[0], ((50.0, 30.0, 70.0, 30.0, 70.0, 50.0, 50.0, 50.0),)))
    tile = draw_tile(two)
    assert tile.shape[:2] == (360, 480)  # of 60x80
    for colour, (y, x) in zip(TARGET_COLOURS, [(15, 20), (40, 60)], strict=False):
        rows, columns = np.nonzero((tile == colour).all(axis=2))
        assert (rows.min() / 6 <= y <= rows.max() / 6) and (columns.min() / 6 <= x <= columns.max() / 6)


def test_a_small_target_is_shown_enlarged_in_the_far_corner(sample: Sample, tmp_path: Path) -> None:
    Image.new("RGB", (800, 600), (90, 90, 90)).save(tmp_path / "large.png")
    spot = ((100.0, 100.0, 108.0, 100.0, 108.0, 108.0, 100.0, 108.0),)
    one = replace(sample, image_path=tmp_path / "large.png", height=600, width=800, targets=(spot,))
    marked = (draw_tile(one) == TARGET_COLOURS[0]).all(axis=2)
    far = marked[180:, 240:]
    assert far.sum() > 4 * marked[:180, :240].sum() > 0


def test_a_sheet_has_rows_of_tiles_with_words_below(sample: Sample) -> None:
    one, four = draw_sheet([sample]), draw_sheet([sample] * (COLUMNS + 1))
    assert four.shape[0] > 1.9 * one.shape[0] - 20 and four.shape[1] > 2.5 * one.shape[1]
    assert (one[380:, :] < 100).any()  # letters


def test_words_that_do_not_fit_are_cut(sample: Sample) -> None:
    lines = question_lines("where " * 90, 50)
    assert len(lines) == 4 and max(map(len, lines)) <= 50 and lines[-1].endswith("…")
    assert caption(sample, 80) == "1 target · attribute · a.jpg"
    assert caption(replace(sample, targets=()), 12) == "no target ·…"
