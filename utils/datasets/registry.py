"""Data sets by name. A new one is a file in `formats` that holds a `DatasetSpec`, and a line here."""

from __future__ import annotations

import os
from pathlib import Path

from utils.datasets import drseg
from utils.datasets.base import DatasetSpec, Sample
from utils.datasets.formats import (
    earthreason,
    geopixeld,
    grandf,
    grefcoco,
    labelme,
    muse,
    own_coco,
    own_masks,
    reasonseg,
    refcoco,
    refsegrs,
    rrsis_d,
    vrsbench,
)
from utils.datasets.reading import Reading
from utils.runtime.errors import UserError
from utils.runtime.paths import is_folder

DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        drseg.SPEC,
        earthreason.SPEC,
        geopixeld.SPEC,
        grandf.SPEC,
        grefcoco.SPEC,
        muse.SPEC,
        reasonseg.SPEC,
        reasonseg.ALL_TEXTS_SPEC,
        *refcoco.SPECS,
        refsegrs.SPEC,
        rrsis_d.SPEC,
        vrsbench.SPEC,
        labelme.SPEC,
        own_coco.SPEC,
        own_masks.SPEC,
    )
}


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
        UserError: no such data set, folder or split, a record that cannot be used, or two of one name.
    """
    spec, root = dataset_spec(name), Path(root)
    if not is_folder(root):
        tree = "\n".join(f"    {root}/{line}" for line in spec.layout.splitlines())
        raise UserError(
            f"{root}: no such data folder; {name} is expected in it as\n{tree}\nwith the splits "
            f"{', '.join(spec.splits)} (data/README.md). It comes from {spec.source}"
        )
    left_out: list[str] = []
    samples = spec.loader(root, split, Reading(polygons, skip_bad_records, orientation), left_out)
    check_keys(samples)
    if skipped is not None:  # they end up in results, which do not depend on where the data lie
        skipped += [fault.replace(f"{root}{os.sep}", "") for fault in left_out]
    return samples


def check_keys(samples: list[Sample]) -> None:
    """Check that each sample can be named by its key in predictions.

    Raises:
        UserError: two have the same key; both records are named.
    """
    first: dict[str, Sample] = {}
    for sample in samples:
        other = first.setdefault(sample.key, sample)
        if other is not sample:
            raise UserError(
                f"{sample.name} and {other.name} would both be called {sample.key!r} in predictions; give one of the "
                "records another id"
            )
