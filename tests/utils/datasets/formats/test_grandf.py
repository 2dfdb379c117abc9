"""utils.datasets.formats.grandf: COCO files of val and test, and the three kinds of train files."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from tests.utils.datasets.formats.drawn_files import box_rle, draw_picture, write_labels
from utils.datasets.base import BadRecord, target_masks
from utils.datasets.registry import dataset_spec, load_dataset
from utils.runtime.errors import UserError

EVAL, TRAIN = "GranDf/annotations/val_test", "GranDf/annotations/train"
CAR, ROAD = box_rle(0, 0, 10, 10), box_rle(10, 10, 30, 20)
LIST = {"size": [30, 40], "counts": [0, 5, 1195]}  # not compressed


def write_eval(root: Path, captions: list[Any], masks: list[Any], ids: tuple[Any, ...] = ("sa_1", "sa_2")) -> Path:
    images = [{"id": name, "height": 30, "width": 40} for name in ids]
    for name in ids:
        draw_picture(root / "GranDf_HA_images" / "val_test" / f"{name}.jpg")
    write_labels(root / EVAL / "val_gcg_coco_caption_gt.json", {"images": images, "annotations": captions})
    write_labels(root / EVAL / "val_gcg_coco_mask_gt.json", {"images": images[::-1], "annotations": masks})
    return root


def caption(image: Any = "sa_1", text: str = "A car on a road.", labels: Any = ("A car", "a road")) -> dict[str, Any]:
    return {"id": 1, "image_id": image, "caption": text, "labels": list(labels)}


def mask(number: int, rle: Any, image: Any = "sa_1") -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": 1, "segmentation": rle}


SECOND = caption("sa_2", "A car.", ["A car"]), mask(9, LIST, "sa_2")


def test_val_joins_captions_and_masks_by_image(tmp_path: Path) -> None:
    root = write_eval(tmp_path, [SECOND[0], caption()], [mask(2, CAR), SECOND[1], mask(1, ROAD)])
    first, second = load_dataset(root, "val", "grandf")
    assert (first.key, first.answer, first.phrases) == ("sa_1", "A car on a road.", ("A car", "a road"))
    masks = target_masks(first, 30, 40)
    assert masks.sum(axis=(1, 2)).tolist() == [100, 200] and masks[0, 0, 0]  # in the order of the file, not of ids
    assert first.targets[0] == CAR and isinstance(second.targets[0]["counts"], str)
    assert target_masks(second, 30, 40).sum() == 5 and second.image_path.name == "sa_2.jpg"
    assert (dataset_spec("grandf").task, first.groups, first.picture_size) == ("grounded", {}, None)


def test_numbers_name_pictures_and_their_folder_may_lie_in_grandf(tmp_path: Path) -> None:
    root = write_eval(tmp_path, [caption(7)], [mask(1, CAR, 7), mask(2, ROAD, 7)], (7,))
    (root / "GranDf_HA_images").rename(root / "GranDf" / "GranDf_HA_images")
    (one,) = load_dataset(root, "val", "grandf")
    assert one.key == "7" and one.image_path == root / "GranDf/GranDf_HA_images/val_test/7.jpg"


def test_grandf_itself_may_be_named_with_pictures_beside_or_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_eval(tmp_path, [SECOND[0]], [SECOND[1]], ("sa_2",)) / "GranDf"
    (beside,) = load_dataset(root, "val", "grandf")
    monkeypatch.chdir(root)
    assert beside.image_path.samefile(load_dataset(".", "val", "grandf")[0].image_path)
    (tmp_path / "GranDf_HA_images").rename(root / "GranDf_HA_images")
    (inside,) = load_dataset(root, "val", "grandf")
    assert inside.image_path == root / "GranDf_HA_images/val_test/sa_2.jpg"


@pytest.mark.parametrize(
    ("captions", "masks", "message"),
    [
        ([caption()], [mask(1, CAR)], "has 2 labels and 1 masks"),
        ([caption(labels=[])], [], "has 0 labels and 0 masks"),
        ([], [mask(1, CAR)], "has no caption"),
        ([caption(labels=["A car", 3])], [mask(1, CAR), mask(2, CAR)], "labels is .* expected a list of phrases"),
        ([caption(text=" ")], [mask(1, CAR), mask(2, CAR)], "caption is ' ', expected a text"),
        ([caption()], [mask(1, CAR), mask(2, box_rle(0, 0, 9, 9, 20, 30))], "masks are of several sizes"),
        (
            [caption()],
            [mask(1, CAR), mask(2, {**CAR, "counts": "0"})],
            "mask 1: its RLE has counts that do not fill",
        ),
        ([caption()], [mask(1, CAR), mask(2, None)], "mask 1 is None, expected an RLE"),
        (
            [caption()],
            [mask(1, CAR), mask(2, {"size": [30, 40], "counts": [1, 2]})],
            r"runs that do not add up",
        ),
    ],
)
def test_a_bad_image_is_named_or_skipped(tmp_path: Path, captions: list, masks: list, message: str) -> None:
    root = write_eval(tmp_path, [*captions, SECOND[0]], [*masks, SECOND[1]])
    with pytest.raises(BadRecord, match=rf"image 0 \(id 'sa_1'\).*{message}"):
        load_dataset(root, "val", "grandf")
    (left,) = load_dataset(root, "val", "grandf", skip_bad_records=True)
    assert left.key == "sa_2"


def test_peoples_descriptions_are_in_the_order_of_the_caption(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = {
        "a road": {"token_positives": [9, 15], "rle_masks": [ROAD]},
        "A car": {"token_positives": [0, 5], "rle_masks": [CAR, LIST]},
    }
    records = [
        {"file_name": "sa_1.jpg", "caption": '"A car on a road."', "groundings": found},
        {"file_name": "sa_1.jpg", "caption": "Nothing.", "groundings": {}},
    ]
    draw_picture(tmp_path / "GranDf_HA_images" / "train" / "sa_1.jpg")
    write_labels(tmp_path / TRAIN / "GranDf_HA_GCG_train.json", records)
    with caplog.at_level(logging.WARNING):
        (one,) = load_dataset(tmp_path, "train", "grandf")
    assert one.phrases == ("A car", "a road") and one.answer == "A car on a road." and one.key == "sa_1#0"
    assert target_masks(one, 30, 40).sum(axis=(1, 2)).tolist() == [100, 200]  # the list lies within the car
    assert "1 records without a phrase that has a mask" in caplog.text
    found["A car"]["token_positives"] = [5, 5]
    write_labels(tmp_path / TRAIN / "GranDf_HA_GCG_train.json", records)
    with pytest.raises(BadRecord, match=r"record 0, phrase 'A car': its place is \[5, 5\]"):
        load_dataset(tmp_path, "train", "grandf")


def test_refcocog_sentences_are_found_in_whatever_case_or_passed_by(tmp_path: Path) -> None:
    refs = [
        {"sentence": "the Dog", "segmentation": [[0, 0, 10, 0, 10, 10, 0, 10], [20, 0, 25, 0, 25, 10, 20, 10]]},
        {"sentence": "a cat", "segmentation": [[0, 0, 10, 0, 10, 10, 0, 10]]},
        {"sentence": "two men", "segmentation": [[0, 20, 10, 20, 10, 30, 0, 30]]},
    ]
    draw_picture(tmp_path / "coco_2014" / "train2014" / "COCO_train2014_1.jpg")
    inner = {"img_file_name": "COCO_train2014_1.jpg", "caption": "Two men walk the dog.", "refs": refs}
    write_labels(tmp_path / TRAIN / "RefCOCOg_GCG_train.json", [{"1": inner}])
    (one,) = load_dataset(tmp_path, "refcocog_train", "grandf")
    assert one.phrases == ("two men", "the Dog") and one.answer == "two men walk the dog."
    assert target_masks(one, 30, 40).sum(axis=(1, 2)).tolist() == [100, 150]


def test_flickr_passes_by_what_glamm_passes_by(tmp_path: Path) -> None:
    draw_picture(tmp_path / "flikcr_30k" / "train" / "1.jpg", 40, 32)
    rle = box_rle(0, 0, 10, 10, 40, 32)
    image = {"id": 5, "file_name": "1.jpg", "height": 32, "width": 40, "caption": "A man and a dog"}
    marked = {
        "image_id": 5,
        "tokens_positive": [[10, 15], [0, 1]],
        "bbox": [0, 0, 10, 10],
        "area": 100,
        "sam_mask": rle,
    }
    annotations = [
        {**marked, "id": 1},
        {**marked, "id": 2, "tokens_positive": [[0, 5]]},
        {**marked, "id": 3, "ignore": True},
        {**marked, "id": 4, "bbox": [0, 0, 0.5, 10]},
        {**marked, "id": 5, "bbox": [40, 0, 10, 10]},
        {**marked, "id": 6, "area": 0},
        {**marked, "id": 7, "image_id": 6},
        {**marked, "id": 8, "image_id": 8},
    ]
    images = [image, {**image, "id": 6, "caption": "A dog"}, {**image, "id": 8, "height": 31}]
    write_labels(tmp_path / TRAIN / "flickr_mergedGT_GCG_val.json", {"images": images, "annotations": annotations})
    (one,) = load_dataset(tmp_path, "flickr_val", "grandf")
    assert one.phrases == ("A man", "a dog") and one.key == "1#0" and len(one.targets) == 2


def test_missing_files_are_told_with_the_layout(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="test_gcg_coco_caption_gt.json: not there; expected is\n.*GranDf/annotations"):
        load_dataset(tmp_path, "test", "grandf")
    with pytest.raises(UserError, match="OpenPsgGCG_train.json: not there"):
        load_dataset(tmp_path, "openpsg_train", "grandf")
    root = write_eval(tmp_path, [caption()], [mask(1, CAR), mask(2, ROAD)])
    write_labels(root / EVAL / "val_gcg_coco_mask_gt.json", [])
    with pytest.raises(UserError, match="mask_gt.json: expected a COCO file"):
        load_dataset(root, "val", "grandf")
