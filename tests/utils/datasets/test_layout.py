"""utils.datasets.layout: what is told about a part that is missing."""

from __future__ import annotations

from pathlib import Path

from utils.datasets.layout import folder_or_inner, missing_part


def test_a_missing_part_is_told_with_tree_neighbours_and_source(tmp_path: Path) -> None:
    for number in range(14):
        (tmp_path / f"{number:02d}.jpg").touch()
    error = missing_part(tmp_path, tmp_path / "labels" / "deep" / "all.json", "labels/deep/all.json\n{id}.jpg", "a hub")
    assert str(error).splitlines() == [
        f"{tmp_path}/labels/deep/all.json: not there; expected is",
        f"    {tmp_path}/labels/deep/all.json",
        f"    {tmp_path}/{{id}}.jpg",
        f"In {tmp_path} there is: {', '.join(f'{n:02d}.jpg' for n in range(12))} and 2 more. The data come from a hub",
    ]
    (tmp_path / "labels").mkdir()
    assert f"In {tmp_path}/labels there is: nothing." in str(
        missing_part(tmp_path, tmp_path / "labels" / "all.json", "labels/all.json", "a hub")
    )


def test_a_folder_may_be_named_itself_or_the_one_around_it(tmp_path: Path) -> None:
    inner = tmp_path / "ReasonSeg"
    assert folder_or_inner(tmp_path, "ReasonSeg") == tmp_path
    inner.mkdir()
    assert folder_or_inner(tmp_path, "ReasonSeg") == folder_or_inner(inner, "ReasonSeg") == inner
