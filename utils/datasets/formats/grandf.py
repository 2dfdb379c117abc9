"""GranD-f: descriptions of photographs whose phrases are marked (GLaMM's grounded conversation generation).

    GranDf/annotations/val_test/{val,test}_gcg_coco_{mask,caption}_gt.json
    GranDf/annotations/train/{GranDf_HA_GCG_train,OpenPsgGCG_train,…}.json
    GranDf_HA_images/{train,val_test}/sa_10010541.jpg
    coco_2017/train2017/…, coco_2014/train2014/…, flikcr_30k/train/… for the other train files

val and test are two COCO files each: `images` with `id` (the picture's name without its ending), `annotations` with
`image_id` and, in the mask file, `segmentation` as run lengths, in the caption file `caption` and `labels`, the
phrases in the order of the masks. The train files are of three kinds (`grandf_train`). `GranDf_HA_images` may lie in
`GranDf` too, where GLaMM's training looks for it. (mbzuai-oryx/groundingLMM@e74865f, eval/gcg/evaluate.py,
docs/datasets.md.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from utils.datasets.base import CLEAN, GROUNDED, BadRecord, DatasetSpec, Sample, ScoringRules
from utils.datasets.checks import shortened
from utils.datasets.descriptions import INSTRUCTION
from utils.datasets.formats.grandf_train import READERS, Described
from utils.datasets.layout import missing_part
from utils.datasets.reading import Reading, SplitReader
from utils.datasets.run_lengths import checked_rle
from utils.runtime.errors import UserError
from utils.runtime.json_files import read_json
from utils.runtime.paths import is_file, is_folder

NAME = "grandf"
ANNOTATIONS = Path("GranDf/annotations")
HUMAN, COCO_2017, COCO_2014 = "GranDf_HA_images/train", "coco_2017/train2017", "coco_2014/train2014"
FLICKR = "flikcr_30k/train"  # spelled so
TRAIN_FILES = {  # split: file, kind, folder of its pictures
    "train": ("GranDf_HA_GCG_train.json", "groundings", HUMAN),
    "openpsg_train": ("OpenPsgGCG_train.json", "groundings", COCO_2017),
    "openpsg_val": ("OpenPsgGCG_val.json", "groundings", COCO_2017),
    "refcocog_train": ("RefCOCOg_GCG_train.json", "refs", COCO_2014),
    "refcocog_val": ("RefCOCOg_GCG_val.json", "refs", COCO_2014),
    "flickr_train": ("flickr_mergedGT_GCG_train.json", "flickr", FLICKR),
    "flickr_val": ("flickr_mergedGT_GCG_val.json", "flickr", FLICKR),
}
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
        root: the folder that holds `GranDf` and the folders of pictures.
        split: "val", "test", or one of TRAIN_FILES; "train" is the part that was written by people.
        reading: how records are read.
        skipped: takes what is wrong with each record that is left out.

    Raises:
        UserError: a label file is missing or of another kind.
        BadRecord: a record that cannot be used, unless they are skipped.
    """
    if split not in TRAIN_FILES:
        return _load_evaluation(root, split, reading, skipped)
    name, kind, pictures = TRAIN_FILES[split]
    file = _label_file(root, "train", name)
    reader = SplitReader(file, reading, skipped)
    folder = _picture_folder(root, pictures)
    passed = READERS[kind](file, read_json(file, strict=False))
    for where, read in passed.records:
        with reader.record():
            described = read()
            if described is not None:
                _add(reader, where, described, folder / described.picture)
    passed.log_passed_by()
    return reader.finish("description")


def _label_file(root: Path, folder: str, name: str) -> Path:
    file = root / ANNOTATIONS / folder / name
    if not is_file(file):
        raise missing_part(root, file, LAYOUT, SOURCE)
    return file


def _picture_folder(root: Path, name: str) -> Path:
    """Of the pictures; those of GranD-f's own may lie in GranDf."""
    inside = root / "GranDf" / name
    return inside if not is_folder(root / name) and is_folder(inside) else root / name


def _add(reader: SplitReader, where: str, described: Described, path: Path) -> None:
    photograph = reader.photograph(where, path, described.frame)
    height, width = described.frame or reader.size(photograph)
    reader.samples.append(
        Sample(
            image_path=photograph.path,
            question=INSTRUCTION,
            answer=described.text,
            targets=described.targets((height, width)),
            height=height,
            width=width,
            dataset=NAME,
            record_id=described.key,
            index=len(reader.samples),
            source=where,
            key=described.key,
            picture_size=photograph.picture_size,
            upright=photograph.upright,
            phrases=described.phrases,
        )
    )
