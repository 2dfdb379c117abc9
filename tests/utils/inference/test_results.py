"""utils.inference.results: the names of files, and what a line says."""

from __future__ import annotations

from pathlib import Path

from utils.inference.results import distinct_names


def test_names_are_distinct_even_from_a_number_that_is_already_one() -> None:
    paths = [Path(name) for name in ("x.jpg", "x-2.jpg", "b/x.png", "c/x.png", "y.jpg")]
    assert distinct_names(paths) == ["x", "x-2", "x-3", "x-4", "y"]
