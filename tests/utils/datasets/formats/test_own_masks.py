"""utils.datasets.formats.own_masks: masks in PNG files and questions in lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.utils.datasets.formats.drawn_own import SIZE, draw_picture
from utils.datasets.base import BadRecord, Sample, target_masks
from utils.datasets.registry import load_dataset
from utils.runtime.errors import UserError

IDS = np.zeros(SIZE, np.uint8)
IDS[10:20, 10:30] = 3  # 200 pixels
IDS[30:40, 50:60] = 7  # 100 pixels


def load(root: Path, split: str = "all", **options: Any) -> list[Sample]:
    return load_dataset(root, split, "masks", **options)


def write(root: Path, *rows: dict | str, file: str = "questions.jsonl") -> Path:
    for name in "ab":
        draw_picture(root / "images" / f"{name}.jpg")
    (root / "masks").mkdir(exist_ok=True)
    Image.fromarray(IDS).save(root / "masks" / "ids.png")
    Image.fromarray((IDS == 3) * np.uint8(255)).save(root / "masks" / "first.png")
    Image.fromarray((IDS == 7) * np.uint8(255)).save(root / "masks" / "second.png")
    (root / file).write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in rows) + "\n")
    return root


def row(**fields: Any) -> dict[str, Any]:
    return {"image": "a.jpg", "question": "Which?", "mask": "first.png", **fields}


def areas(sample: Sample) -> list[int]:
    return [int(one.sum()) for one in target_masks(sample, *sample.size)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [200]),
        ({"mask": ["second.png", "first.png"]}, [100, 200]),
        ({"mask": "ids.png"}, [300]),
        ({"mask": "ids.png", "value": 7}, [100]),
        ({"mask": "ids.png", "value": [7, 3]}, [100, 200]),
        ({"mask": None, "no_target": True}, []),
    ],
)
def test_a_line_is_a_question_with_its_targets(tmp_path: Path, fields: dict, expected: list[int]) -> None:
    (one,) = load(write(tmp_path, row(**fields, answer="This.", group="roofs"), ""))
    assert (one.question, one.answer, one.groups, one.key) == ("Which?", "This.", {"group": "roofs"}, "1")
    assert areas(one) == expected and one.size == SIZE


def test_masks_of_palettes_colours_and_16_bits_are_read_as_stored(tmp_path: Path) -> None:
    rows = [
        row(mask="p.png", value=7),
        row(mask="c.png", value="#80FF00"),
        row(mask="c.png"),
        row(mask="w.png", value=7),
    ]
    root = write(tmp_path, *rows)
    palette = Image.fromarray(IDS, "L").convert("P")
    palette.putpalette([0] * 768)  # every colour is black: the numbers count
    palette.putdata(IDS.reshape(-1).tolist())
    palette.save(root / "masks" / "p.png")
    colours = np.zeros((*SIZE, 3), np.uint8)
    colours[IDS == 3], colours[IDS == 7] = (128, 255, 0), (1, 2, 3)
    Image.fromarray(colours).save(root / "masks" / "c.png")
    Image.fromarray(IDS.astype(np.uint16)).save(root / "masks" / "w.png")
    assert [areas(one) for one in load(root)] == [[100], [200], [300], [100]]


def test_a_mask_of_another_size_is_scaled_where_proportions_agree(tmp_path: Path) -> None:
    root = write(tmp_path, row(mask="half.png"))
    Image.fromarray(IDS[::2, ::2]).save(root / "masks" / "half.png")
    (one,) = load(root)
    assert (one.height, one.width, one.size) == (30, 40, SIZE) and areas(one) == [300]
    Image.fromarray(IDS[:30]).save(root / "masks" / "half.png")
    with pytest.raises(BadRecord, match="the proportions contradict each other"):
        load(root)


def test_splits_have_files_or_are_drawn_by_picture(tmp_path: Path) -> None:
    root = write(tmp_path, row(), row(image="b.jpg"), file="questions_train.jsonl")
    write(tmp_path, row(id="one"), file="questions_val.jsonl")
    assert (len(load(root, "train")), [one.key for one in load(root, "val")]) == (2, ["one"])
    assert [(one.index, one.key) for one in load(root)] == [
        (0, "questions_train:1"),
        (1, "questions_train:2"),
        (2, "one"),
    ]
    with pytest.raises(UserError, match=r"questions_test\.jsonl: no such split; there are train, val"):
        load(root, "test")
    other = tmp_path / "other"
    other.mkdir()
    write(other, row(), row(image="b.jpg"))
    with pytest.raises(UserError, match="2 pictures cannot be divided"):
        load(other, "train")
    (other / "splits.json").write_text('{"train": ["b.jpg"], "val": ["a"]}')
    assert [one.image_path.name for one in load(other, "train")] == ["b.jpg"]
    (other / "questions.jsonl").unlink()
    with pytest.raises(UserError, match=r"questions\.jsonl: .*(?s:.*)masks/\*\.png"):
        load(other, "train")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "expected an object"),
        ('{"value": ' + "9" * 4301 + "}", "is no JSON"),
        (row(masks="a.png"), "has the field 'masks'; known are image"),
        (row(question=""), "question is '', expected a text"),
        (row(mask="gone.png"), r"its mask .*gone\.png is missing"),
        (row(mask="../first.png"), "is not in"),
        (row(image="gone.jpg"), "is missing"),
        (row(mask=None), 'it has no mask; .*"no_target": true'),
        (row(no_target=True), "it has a mask and no_target is true"),
        (row(mask="ids.png", value=9), "no pixel of its mask .* has the value 9"),
        (row(mask="ids.png", value=[]), "value is an empty list"),
        (row(mask="ids.png", value=1.5), "value is 1.5, expected"),
        (row(mask=["first.png", "second.png"], value=[1, 2]), "needs exactly one mask; it has 2"),
        (row(mask="j.jpg"), "is a JPEG, which blurs masks"),
        (row(mask="c.png", value=1), "is in colours; give the colour"),
        (row(mask=["first.png", "small.png"]), "of different sizes: 40x30 and 80x60"),
    ],
)
def test_a_bad_line_is_named_and_can_be_left_out(tmp_path: Path, line: Any, message: str) -> None:
    root = write(tmp_path, row(), line)
    Image.fromarray(IDS).save(root / "masks" / "j.jpg")
    Image.fromarray(IDS[::2, ::2]).save(root / "masks" / "small.png")
    Image.fromarray(np.stack([IDS, IDS * 0, IDS * 0], axis=2)).save(root / "masks" / "c.png")
    with pytest.raises(BadRecord, match=rf"questions\.jsonl: line 2.*{message}"):
        load(root)
    skipped: list[str] = []
    assert len(load(root, skip_bad_records=True, skipped=skipped)) == len(skipped) == 1
