"""Data sets by name. A new one is a file beside this one that holds a `DatasetSpec`, and a line here."""

from __future__ import annotations

from pathlib import Path

from utils.datasets import drseg
from utils.datasets.base import DatasetSpec, Sample
from utils.runtime.errors import UserError
from utils.runtime.paths import is_folder

DATASETS: dict[str, DatasetSpec] = {spec.name: spec for spec in (drseg.SPEC,)}


def dataset_spec(name: str) -> DatasetSpec:
    """The data set called `name`.

    Raises:
        UserError: there is none; the known ones are listed.
    """
    if name not in DATASETS:
        raise UserError(f"unknown data set {name!r}; known are {', '.join(DATASETS)}")
    return DATASETS[name]


def load_dataset(
    root: Path | str,
    split: str,
    name: str = drseg.NAME,
    polygons: str = "union",
    skip_bad_records: bool = False,
    orientation: str = "check",
    skipped: list[str] | None = None,
) -> list[Sample]:
    """All samples of a split; `skipped` takes what is wrong with each record that is left out.

    Raises:
        UserError: no such data set, folder or split, or a record that cannot be used.
    """
    spec, root = dataset_spec(name), Path(root)
    if not is_folder(root):
        tree = "\n".join(f"    {root}/{line}" for line in spec.layout.splitlines())
        raise UserError(
            f"{root}: no such data folder; {name} is expected in it as\n{tree}\nwith the splits "
            f"{', '.join(spec.splits)} (data/README.md). It comes from {spec.source}"
        )
    reading = {"polygons": polygons, "skip_bad_records": skip_bad_records, "orientation": orientation}
    return spec.loader(root, split, **reading, skipped=skipped)
