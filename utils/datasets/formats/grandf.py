"""GranD-f: descriptions of photographs whose phrases are marked (GLaMM's grounded conversation generation).

    ROOT/GranDf/annotations/val_test/{val,test}_gcg_coco_{mask,caption}_gt.json
    ROOT/GranDf/annotations/train/{GranDf_HA_GCG_train,OpenPsgGCG_train,…}.json
    ROOT/GranDf_HA_images/{train,val_test}/sa_10010541.jpg
    ROOT/{coco_2017/train2017,coco_2014/train2014,flikcr_30k/train}/… for the other train files

val and test are two COCO files each: `images` with `id` (the picture's name without its ending), `annotations` with
`image_id` and, in the mask file, `segmentation` as run lengths, in the caption file `caption` and `labels`, the
phrases in the order of the masks. The train files are of three kinds (`grandf_train.py`). ROOT may be `GranDf` itself,
and folders of pictures may lie in it, where GLaMM's training looks for `GranDf_HA_images`, or beside it.
(mbzuai-oryx/groundingLMM@e74865f, eval/gcg/evaluate.py, docs/datasets.md.)
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from utils.datasets.base import CLEAN, GROUNDED, BadRecord, DatasetSpec, Sample, ScoringRules, Target
from utils.datasets.checks import checked_picture_name, checked_polygon, shortened
from utils.datasets.descriptions import INSTRUCTION
from utils.datasets.formats.grandf_train import Described, flickr, groundings, is_id, joined, refs
from utils.datasets.layout import check_split_name, folder_or_inner, missing_part
from utils.datasets.reading import Reading, SplitReader
from utils.datasets.run_lengths import checked_rle
from utils.runtime.errors import UserError
from utils.runtime.json_files import read_json
from utils.runtime.paths import is_file, is_folder

log = logging.getLogger(__name__)

NAME = "grandf"
FOLDER = "GranDf"
HUMAN, COCO_2017, COCO_2014 = "GranDf_HA_images/train", "coco_2017/train2017", "coco_2014/train2014"
FLICKR = "flikcr_30k/train"  # spelled so
TRAIN_FILES = {  # split: file, how its records are read, folder of its pictures
    "train": ("GranDf_HA_GCG_train.json", groundings, HUMAN),
    "openpsg_train": ("OpenPsgGCG_train.json", groundings, COCO_2017),
    "openpsg_val": ("OpenPsgGCG_val.json", groundings, COCO_2017),
    "refcocog_train": ("RefCOCOg_GCG_train.json", refs, COCO_2014),
    "refcocog_val": ("RefCOCOg_GCG_val.json", refs, COCO_2014),
    "flickr_train": ("flickr_mergedGT_GCG_train.json", flickr, FLICKR),
    "flickr_val": ("flickr_mergedGT_GCG_val.json", flickr, FLICKR),
}
SPLITS = ("train", "val", "test", *(split for split in TRAIN_FILES if split != "train"))
LAYOUT = (
    "GranDf/annotations/val_test/{val,test}_gcg_coco_{mask,caption}_gt.json\n"
    "GranDf/annotations/train/GranDf_HA_GCG_train.json (and the other train files that are wanted)\n"
    "GranDf_HA_images/{train,val_test}/sa_10010541.jpg\n"
    "coco_2017/train2017, coco_2014/train2014, flikcr_30k/train (for openpsg, refcocog and flickr)"
)
SOURCE = "https://huggingface.co/datasets/MBZUAI/GranD-f (labels); pictures: groundingLMM's docs/datasets.md"


def load_grandf(root: Path, split: str, reading: Reading, skipped: list[str] | None = None) -> list[Sample]:
    """A sample for each description.

    Args:
        root: the folder that holds `GranDf`, or that folder; those of pictures lie in either.
        split: "val", "test", or one of TRAIN_FILES; "train" is the part that was written by people.
        reading: how records are read.
        skipped: takes what is wrong with each record that is left out.

    Raises:
        UserError: there is no such split, or a label file is missing or of another kind.
        BadRecord: a record that cannot be used, unless they are skipped.
    """
    check_split_name(NAME, split, SPLITS)
    if split in TRAIN_FILES:
        return _load_train(root, split, reading, skipped)
    return _load_evaluation(root, split, reading, skipped)


def _load_train(root: Path, split: str, reading: Reading, skipped: list[str] | None) -> list[Sample]:
    name, described, pictures = TRAIN_FILES[split]
    file = _label_file(root, "train", name)
    value = read_json(file, strict=False)
    records = joined(*_coco_lists(file, value)) if described is flickr else value
    if not isinstance(records, list):
        raise UserError(f"{file}: holds a {type(records).__name__}, expected a list of records")
    reader, passed_by = SplitReader(file, reading, skipped), 0
    folder = _picture_folder(root, pictures)
    for position, record in enumerate(records):
        where = f"{file}: record {position}"
        with reader.record():
            if (one := described(where, record)) is None:
                passed_by += 1
            else:
                _add(reader, where, one, folder / one.picture, f"{Path(one.picture).stem}#{position}")
    if passed_by:
        log.warning("%s: %d records without a phrase that has a mask are passed by", file, passed_by)
    return reader.finish()


def _load_evaluation(root: Path, split: str, reading: Reading, skipped: list[str] | None) -> list[Sample]:
    """Of the two COCO files; an image of the caption file is a description."""
    files = [_label_file(root, "val_test", f"{split}_gcg_coco_{kind}_gt.json") for kind in ("caption", "mask")]
    captions, masks = (_coco_lists(file, read_json(file, strict=False)) for file in files)
    of_image = {
        one["id"]: one["annotations"]
        for one in joined(captions[0], masks[1])
        if isinstance(one, dict) and is_id(one.get("id"))
    }
    reader = SplitReader(files[0], reading, skipped)
    folder = _picture_folder(root, "GranDf_HA_images/val_test")
    for position, image in enumerate(joined(*captions)):
        where = f"{files[0]}: image {position}"
        with reader.record():
            if not isinstance(image, dict) or not is_id(image.get("id")):
                raise BadRecord(f"{where} is {shortened(image)}, expected an object with an id")
            where += f" (id {shortened(image['id'])})"
            name = checked_picture_name(where, "its id", str(image["id"]))
            one = _evaluated(where, name, image["annotations"], of_image[image["id"]])
            _add(reader, where, one, folder / one.picture, name)
    return reader.finish("image")


def _evaluated(where: str, name: str, captions: list[Any], masks: list[Any]) -> Described:
    """The description of an image of val or test."""
    if not captions:
        raise BadRecord(f"{where} has no caption")
    text, labels = captions[0].get("caption"), captions[0].get("labels")
    if not isinstance(text, str) or not text.strip():
        raise BadRecord(f"{where}: caption is {shortened(text)}, expected a text")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise BadRecord(f"{where}: labels is {shortened(labels)}, expected a list of phrases")
    if len(labels) != len(masks) or not masks:
        raise BadRecord(
            f"{where} has {len(labels)} labels and {len(masks)} masks; expected is as many, and at least one"
        )
    rles = tuple(checked_rle(f"{where}, mask {i}", one.get("segmentation")) for i, one in enumerate(masks))
    return Described(f"{name}.jpg", text.strip(), tuple(labels), rles)


def _coco_lists(file: Path, value: Any) -> tuple[list[Any], list[Any]]:
    """Images and annotations of a COCO file."""
    lists = [value.get(name) for name in ("images", "annotations")] if isinstance(value, dict) else [None, None]
    if not all(isinstance(one, list) for one in lists):
        raise UserError(f"{file}: expected a COCO file, an object with lists of images and annotations")
    return lists[0], lists[1]


def _label_file(root: Path, folder: str, name: str) -> Path:
    file = folder_or_inner(root, FOLDER) / "annotations" / folder / name
    if not is_file(file):
        raise missing_part(root, file, LAYOUT, SOURCE)
    return file


def _picture_folder(root: Path, name: str) -> Path:
    """Of the pictures: in ROOT, in GranDf or beside it; that in ROOT where there is none."""
    top = folder_or_inner(root, FOLDER)
    beside = [top / ".." / name] if top == root else []
    return next((one for one in (root / name, top / name, *beside) if is_folder(one)), root / name)


def _add(reader: SplitReader, where: str, described: Described, path: Path, key: str) -> None:
    sizes = {tuple(mask["size"]) for mask in described.masks if isinstance(mask, dict)}
    if len(sizes) > 1:
        raise BadRecord(
            f"{where}: its masks are of several sizes (height, width): {', '.join(map(str, sorted(sizes)))}"
        )
    frame = next(iter(sizes), None)
    photograph = reader.photograph(where, path, frame)
    frame = frame or reader.size(photograph)
    reader.samples.append(
        Sample(
            image_path=photograph.path,
            question=INSTRUCTION,
            answer=described.text,
            targets=tuple(_target(f"{where}, mask {i}", mask, frame) for i, mask in enumerate(described.masks)),
            height=frame[0],
            width=frame[1],
            dataset=NAME,
            record_id=key,
            index=len(reader.samples),
            source=where,
            key=key,
            picture_size=photograph.picture_size,
            upright=photograph.upright,
            phrases=described.phrases,
        )
    )


def _target(where: str, mask: Any, frame: tuple[int, int]) -> Target:
    if isinstance(mask, dict):
        return mask
    return tuple(checked_polygon(f"{where}, polygon {i}", polygon, frame) for i, polygon in enumerate(mask))


SPEC = DatasetSpec(
    name=NAME,
    splits=SPLITS,
    layout=LAYOUT,
    source=SOURCE,
    loader=load_grandf,
    rules={CLEAN: ScoringRules(matching="hungarian")},
    task=GROUNDED,
)
