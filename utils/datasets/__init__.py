"""Data sets by name; each loader gives `Sample` objects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from utils.datasets import drseg
from utils.datasets.base import Sample
from utils.runtime.errors import UserError

DATASETS: dict[str, Callable[..., list[Sample]]] = {drseg.NAME: drseg.load_drseg}


def load_dataset(
    root: Path | str, split: str, name: str = drseg.NAME, polygons: str = "union", skip_bad_records: bool = False
) -> list[Sample]:
    """All samples of a split.

    Raises:
        UserError: no such data set, folder or split, or a record that cannot be used.
    """
    if name not in DATASETS:
        raise UserError(f"unknown data set {name!r}; known are {', '.join(DATASETS)}")
    return DATASETS[name](Path(root), split, polygons=polygons, skip_bad_records=skip_bad_records)
