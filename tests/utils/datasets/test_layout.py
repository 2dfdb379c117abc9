"""utils.datasets.layout: what is missing in a data set's folder."""

from __future__ import annotations

from pathlib import Path

from utils.datasets.layout import folder_or_inner, missing_part


def test_a_missing_part_is_told_with_the_tree_what_is_there_and_the_source(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    error = missing_part(tmp_path, tmp_path / "refs.p", "refs.p\nimages/*.jpg", "https://example.org")
    assert str(error).splitlines() == [
        f"{tmp_path}/refs.p: missing; the data set is expected as",
        f"    {tmp_path}/refs.p",
        f"    {tmp_path}/images/*.jpg",
        f"and {tmp_path} holds images (data/README.md). It comes from https://example.org",
    ]


def test_of_many_names_the_first_are_listed(tmp_path: Path) -> None:
    assert "holds nothing (" in str(missing_part(tmp_path, tmp_path / "x", "x", ""))
    for i in range(15):
        (tmp_path / f"{i:02}").touch()
    assert "holds 00, 01, 02, 03, 04, 05, 06, 07, 08, 09, 10, 11 and 3 more (" in str(
        missing_part(tmp_path, tmp_path / "x", "x", "")
    )


def test_a_folder_may_be_named_itself_or_the_one_around_it(tmp_path: Path) -> None:
    inner = tmp_path / "ReasonSeg"
    assert folder_or_inner(tmp_path, "ReasonSeg") == tmp_path
    inner.mkdir()
    assert folder_or_inner(tmp_path, "ReasonSeg") == folder_or_inner(inner, "ReasonSeg") == inner
