"""utils.datasets.registry: data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from utils.datasets import drseg
from utils.datasets.base import DatasetSpec, Sample, ScoringRules
from utils.datasets.reading import Reading
from utils.datasets.registry import DATASETS, dataset_spec, load_dataset
from utils.runtime.errors import UserError


def test_an_unknown_data_set_is_named() -> None:
    with pytest.raises(UserError, match="unknown data set 'walls'; known are .*drseg"):
        load_dataset("data", "test", name="walls")


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

    def load(root: Path, split: str, reading: Reading, skipped: list[str]) -> list[Sample]:
        asked.append((root, split, reading))
        skipped.append(f"{root}/all.json: record 3 is bad")
        return []

    spec = DatasetSpec("roofs", ("all",), "all.json\n{id}.png", "nowhere", load)
    monkeypatch.setitem(DATASETS, "roofs", spec)
    assert dataset_spec("roofs") is spec and dataset_spec("drseg") is drseg.SPEC
    assert load_dataset(str(tmp_path), "all", "roofs", "first", True, "stored", skipped) == []
    assert asked == [(tmp_path, "all", Reading("first", True, "stored"))]
    assert skipped == ["all.json: record 3 is bad"]  # results do not depend on where the data lie
    with pytest.raises(UserError, match=r"roofs is expected in it as\n    gone/all.json\n    gone/\{id\}.png\n.* all "):
        load_dataset("gone", "all", "roofs")
    with pytest.raises(UserError, match="unknown data set 'walls'; known are drseg, .*roofs"):
        dataset_spec("walls")


def test_two_records_of_one_name_are_refused(make_drseg: Callable[..., Path], make_record: Callable[..., dict]) -> None:
    twice = [make_record("a"), make_record("a"), make_record("a#1")]  # the second is called a#1
    with pytest.raises(UserError, match=r"record 2 \(id 'a#1'\) and .*record 1 \(id 'a'\) would both be called 'a#1'"):
        load_dataset(make_drseg(twice), "test")


def test_rules_are_found_by_name_and_official_ones_are_the_clean_where_they_do_not_differ() -> None:
    spec = DatasetSpec("roofs", ("all",), "", "", list, {"clean": ScoringRules(), "lavt": ScoringRules(empty_iou=0.0)})
    assert spec.scoring() is spec.scoring("official") is spec.rules["clean"]
    assert spec.scoring("lavt").empty_iou == 0
    with pytest.raises(UserError, match="--metric is 'best'; roofs has clean, lavt, official"):
        spec.scoring("best")


PUBLISHED = [name for name in DATASETS if name not in (drseg.NAME, "coco", "labelme", "masks")]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_split_that_a_published_set_does_not_have_is_refused_whatever_lies_there(tmp_path: Path, name: str) -> None:
    for folder in ("explanatory", "Annotations_train", "explanatory/images", "explanatory/labels", "explanatory/QAs"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("explanatory/a.json", "Annotations_train/a.json", "muse_explanatory.json"):
        (tmp_path / file).write_text("[]")
    with pytest.raises(UserError) as caught:
        load_dataset(tmp_path, "explanatory", name)
    assert str(caught.value) == f"{name} has no split 'explanatory'; it has {', '.join(dataset_spec(name).splits)}"
