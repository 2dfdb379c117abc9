"""utils.datasets.formats.grefcoco: sentences that refer to one object, several or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.utils.datasets.formats.drawn_refer import ACROSS, BESIDE, HEIGHT, WIDTH, annotation, ref, write_set
from utils.datasets.base import BadRecord, Sample, target_masks
from utils.datasets.registry import dataset_spec, load_dataset
from utils.runtime.errors import UserError

PICKLE, JSON = "grefcoco/grefs(unc).p", "grefcoco/grefs(unc).json"
OBJECTS = [annotation(1), annotation(2, [ACROSS]), annotation(3, [BESIDE]), annotation(4, [BESIDE], iscrowd=1)]


def write(root: Path, *refs: dict[str, Any], file: str = PICKLE) -> Path:
    return write_set(root, file, "images/train2014", list(refs), OBJECTS)


def union(sample: Sample) -> int:
    return int(target_masks(sample, HEIGHT, WIDTH, merge=True).sum())


def test_one_several_and_no_objects(tmp_path: Path) -> None:
    refs = [
        ref(1, "val", "The car", ann=[1]),
        ref(2, "val", "both", "two cars", ann=[1, 2]),
        ref(3, "val", "a plane", ann=[-1], no_target=True, category_id=[-1]),
        ref(4, "val", "the same twice", ann=[3, 3]),
    ]
    samples = load_dataset(write(tmp_path, *refs), "val", "grefcoco")
    assert [(one.key, one.question, one.groups["targets"], len(one.targets)) for one in samples] == [
        ("10", "the car", "one", 1),
        ("20", "both", "several", 2),
        ("21", "two cars", "several", 2),
        ("30", "a plane", "none", 0),
        ("40", "the same twice", "one", 1),
    ]
    assert [union(one) for one in samples if one.targets] == [100, 175, 175, 50]
    assert target_masks(samples[3], HEIGHT, WIDTH).shape == (0, HEIGHT, WIDTH)


def test_crowds_are_left_out(tmp_path: Path) -> None:
    root = write(tmp_path, ref(1, "val", ann=[1, 4]))
    (one,) = load_dataset(root, "val", "grefcoco")
    assert (union(one), one.groups) == (100, {"targets": "one"})
    with pytest.raises(BadRecord, match=r"all objects that it names are crowds: \[4\]"):
        load_dataset(write(tmp_path, ref(1, "val", ann=[4])), "val", "grefcoco")


def test_the_pickle_is_read_before_the_json(tmp_path: Path) -> None:
    root = write(tmp_path, ref(1, "val", "json", ann=[1]), file=JSON)
    assert load_dataset(root, "val", "grefcoco")[0].question == "json"
    write(tmp_path, ref(1, "val", "pickle", ann=[1]))
    assert load_dataset(root, "val", "grefcoco")[0].question == "pickle"
    for name in (PICKLE, JSON):
        (root / name).unlink()
    with pytest.raises(UserError, match=r"grefs\(unc\)\.p: not there; expected is\n.*, or grefcoco/grefs\(unc\)\.json"):
        load_dataset(root, "val", "grefcoco")


def test_the_folder_of_the_labels_may_be_named_with_pictures_beside_or_in_it(tmp_path: Path) -> None:
    root = write(tmp_path, ref(1, "val", ann=[1])) / "grefcoco"
    (beside,) = load_dataset(root, "val", "grefcoco")
    assert beside.image_path.is_file()
    (tmp_path / "images").rename(root / "images")
    (inside,) = load_dataset(root, "val", "grefcoco")
    assert inside.image_path.parent == root / "images" / "train2014"


def test_splits_are_those_of_their_names_alone(tmp_path: Path) -> None:
    root = write(tmp_path, ref(1, "testA", ann=[1]), ref(2, "testAB", ann=[1]))
    assert [one.record_id for one in load_dataset(root, "testA", "grefcoco")] == ["1"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ann": []}, r"ann_id is \[\], expected objects, or \[-1\] where none is meant"),
        ({"ann": [1, -1]}, r"ann_id is \[1, -1\], expected objects"),
        ({"ann": [1], "no_target": True}, r"no_target is True, but ann_id names \[1\]"),
        ({"ann": [1, 9]}, "its ann_id 9 is none of the annotations"),
        ({"ann": [[1]]}, r"its ann_id \[1\] is none of the annotations"),
        ({"ann": "all"}, "its ann_id 'all' is none"),
    ],
)
def test_a_ref_that_contradicts_itself_is_refused(tmp_path: Path, fields: dict, message: str) -> None:
    with pytest.raises(BadRecord, match=rf"ref 1 \(id 2\): {message}"):
        load_dataset(write(tmp_path, ref(1, "val", ann=[1]), ref(2, "val", **fields)), "val", "grefcoco")


def test_rules_are_those_of_rela() -> None:
    spec = dataset_spec("grefcoco")
    assert spec.no_target and spec.unit == "question" and list(spec.group_titles) == ["targets"]
    assert spec.metrics == ("giou", "ciou", "n_acc", "t_acc", "pr70", "pr80", "pr90")
    assert spec.scoring("official") is spec.scoring() and "no mask or an empty one" in spec.scoring().note
