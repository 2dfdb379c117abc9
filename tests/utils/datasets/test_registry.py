"""utils.datasets.registry: data sets by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.datasets import drseg
from utils.datasets.base import DatasetSpec, Sample
from utils.datasets.registry import DATASETS, dataset_spec, load_dataset
from utils.runtime.errors import UserError


def test_an_unknown_data_set_is_named() -> None:
    with pytest.raises(UserError, match="unknown data set 'coco'; known are drseg"):
        load_dataset("data", "test", name="coco")


def test_a_missing_folder_is_told_with_layout_splits_and_source() -> None:
    with pytest.raises(UserError) as caught:
        load_dataset("no/such/folder", "test")
    assert str(caught.value).splitlines() == [
        "no/such/folder: no such data folder; drseg is expected in it as",
        "    no/such/folder/labels/DRSeg_{split}.json",
        "    no/such/folder/CODrone/DR{split}/{id}.jpg",
        f"with the splits train, val, test (data/README.md). It comes from {drseg.SPEC.source}",
    ]
    assert "python -m utils.download --what drseg" in drseg.SPEC.source


def test_a_second_data_set_is_read_by_its_own_loader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked, skipped = [], []

    def load(
        root: Path, split: str, polygons: str, skip_bad_records: bool, orientation: str, skipped: list[str]
    ) -> list[Sample]:
        asked.append((root, split, polygons, skip_bad_records, orientation, skipped))
        return []

    spec = DatasetSpec("roofs", ("all",), "all.json\n{id}.png", "nowhere", load)
    monkeypatch.setitem(DATASETS, "roofs", spec)
    assert dataset_spec("roofs") is spec and dataset_spec("drseg") is drseg.SPEC
    assert load_dataset(str(tmp_path), "all", "roofs", "first", True, "stored", skipped) == []
    assert asked == [(tmp_path, "all", "first", True, "stored", skipped)] and asked[0][-1] is skipped
    with pytest.raises(UserError, match=r"roofs is expected in it as\n    gone/all.json\n    gone/\{id\}.png\n.* all "):
        load_dataset("gone", "all", "roofs")
    with pytest.raises(UserError, match="unknown data set 'walls'; known are drseg, roofs"):
        dataset_spec("walls")
