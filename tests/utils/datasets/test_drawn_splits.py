"""utils.datasets.drawn_splits: which pictures belong to which split."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from utils.datasets.drawn_splits import drawn_parts, name_place, pictures_of_split
from utils.runtime.errors import UserError

NAMES = [f"picture_{i:03}.jpg" for i in range(400)]


def test_names_are_drawn_in_the_documented_shares_and_keep_their_split() -> None:
    parts = drawn_parts(NAMES)
    assert sorted(name for part in parts.values() for name in part) == NAMES
    assert [len(part) for part in parts.values()] == pytest.approx([320, 40, 40], abs=15)
    fewer = drawn_parts(NAMES[:300])
    assert all(set(fewer[split]) <= set(parts[split]) for split in parts)


def test_the_folder_of_a_picture_decides_nothing() -> None:
    assert name_place("a/b.jpg") == name_place("c:\\d\\b.jpg") == name_place("b.jpg")


@pytest.mark.parametrize("count", [3, 4, 6, 10])
def test_few_pictures_leave_no_split_empty(count: int) -> None:
    for start in range(20):
        parts = drawn_parts(NAMES[start : start + count])
        assert all(parts.values()) and sum(map(len, parts.values())) == count
        assert len(parts["train"]) >= count - 5


def test_a_file_beside_the_labels_says_who_belongs_where(tmp_path: Path) -> None:
    names = ["north/a.jpg", "b.jpg", "south/c.png"]
    (tmp_path / "splits.json").write_text('{"train": ["a.jpg", "c"], "valid": ["b.jpg"]}')
    assert pictures_of_split(tmp_path, names, "train") == {"north/a.jpg", "south/c.png"}
    assert pictures_of_split(tmp_path, names, "val") == {"b.jpg"}
    assert pictures_of_split(tmp_path, names, "all") == set(names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"val": ["a.jpg"]}', "no split 'train'; there are val"),
        ('{"train": ["z.jpg"]}', "'z.jpg' in 'train' names no picture"),
        ('{"train": ["a.jpg"], "val": ["a.jpg"]}', "stands in 'train' as 'a.jpg' and in 'val' as"),
        ('{"train": ["a.jpg"], "test": ["a"]}', "'a.jpg' stands in 'train' as 'a.jpg' and in 'test' as 'a'"),
        ('{"train": ["a.jpg"], "test": ["z"]}', "'z' in 'test' names no picture"),
        ('{"train": []}', "split 'train' is empty"),
        ('{"train": [1]}', "holds 1, expected names"),
        ("[]", "expected {split"),
        ('{"train": ["a"]}', r"names 2 pictures \(a.jpg, n/a.jpg\)"),
    ],
)
def test_a_file_that_contradicts_the_labels_is_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "splits.json").write_text(text)
    with pytest.raises(UserError, match=message):
        pictures_of_split(tmp_path, ["a.jpg", "n/a.jpg" if text == '{"train": ["a"]}' else "b.jpg"], "train")


def test_pictures_that_are_in_no_split_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "splits.json").write_text('{"train": ["a"], "val": ["b"]}')
    with caplog.at_level(logging.WARNING):
        assert pictures_of_split(tmp_path, ["a.jpg", "b.jpg", "c.jpg", "d.jpg"], "train") == {"a.jpg"}
    assert "2 of 4 pictures that have labels are in no split" in caplog.text
    caplog.clear()
    pictures_of_split(tmp_path, ["a.jpg", "b.jpg"], "train")
    assert not caplog.text


def test_what_cannot_be_divided_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no split 'dev'; drawn by the pictures' names are train, val, test"):
        pictures_of_split(tmp_path, NAMES, "dev")
    with pytest.raises(UserError, match="2 pictures cannot be divided into train, val, test"):
        pictures_of_split(tmp_path, NAMES[:2], "val")
