"""RefCLEF, RefCOCO, RefCOCO+ and RefCOCOg, in the layout of lichengunc/refer and LISA.

    ROOT/{refclef,refcoco,refcoco+,refcocog}/refs({unc,berkeley,google,umd}).p
    ROOT/{refclef,refcoco,refcoco+,refcocog}/instances.json
    ROOT/images/mscoco/images/train2014/COCO_train2014_{12 digits}.jpg      (refclef: ROOT/images/saiapr_tc-12/…)

ROOT is what LISA calls `refer_seg`. A data set is one division into splits: the usual one has the plain name, the
other one's maker stands behind it. An object is a list of polygons, in refclef a list of RLEs; either way their union
is meant. "test" of refcoco, refcoco+ and refclef is all of testA, testB (and testC).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from utils.datasets.base import CLEAN, OFFICIAL, DatasetSpec, ScoringRules
from utils.datasets.formats.refer import load_refer, one_object
from utils.datasets.formats.refer_labels import ReferSet

COCO_PICTURES, CLEF_PICTURES = "images/mscoco/images/train2014", "images/saiapr_tc-12"
PRECISIONS = ("pr50", "pr60", "pr70", "pr80", "pr90")
LETTERS = ("train", "val", "testA", "testB", "test")
# Sentences a split. RefCOCO's train and val were read in a README of the field; the others are from memory of papers,
# and have not been held against the files.
REFCOCO = {"train": 120_624, "val": 10_834, "testA": 5_657, "testB": 5_095, "test": 10_752}
REFCOCO_PLUS = {"train": 120_191, "val": 10_758, "testA": 5_726, "testB": 4_889, "test": 10_615}
REFCOCOG = {"train": 80_512, "val": 4_896, "test": 9_602}

RULES = {
    CLEAN: ScoringRules(("giou", "ciou", *PRECISIONS), unit="question"),
    OFFICIAL: ScoringRules(
        unit="question",
        covered_once=True,
        note="as LISA scores: every sentence at the picture's own size; where polygons of an object overlap, LISA "
        "counts the overlap as background",
    ),
    "lavt": ScoringRules(
        ("giou", "ciou", *PRECISIONS),
        unit="question",
        canvas="square480",
        empty_iou=0.0,
        covered_once=True,
        note="as LAVT and those after it score: masks are compared at 480x480, overlaps of an object's polygons are "
        "background. They ask the field 'raw' of a sentence; here its 'sent' is asked, in lower case",
    ),
}

UNITED = (
    "RefCLEF's objects are lists of run lengths, whose overlaps cannot be told once they are united: they count as "
    "the object's pixels"
)
CLEF_RULES = {
    name: replace(one, note=f"{one.note}. {UNITED}") if one.covered_once else one for name, one in RULES.items()
}


def refer_spec(
    name: str, folder: str, maker: str, splits: tuple[str, ...], sentences: dict | None = None
) -> DatasetSpec:
    """One of the family.

    Args:
        name: in the registry.
        folder: of its labels.
        maker: of the division into splits, in the refs file's name.
        splits: as published.
        sentences: how many a full split is said to have.
    """
    coco = folder != "refclef"
    pictures = COCO_PICTURES if coco else CLEF_PICTURES
    files = (f"{folder}/refs({maker}).p", f"{folder}/instances.json")
    layout = "\n".join((*files, f"{pictures}/{'COCO_train2014_000000000009' if coco else '…/{id}'}.jpg"))
    where = "COCO's train2014 from https://cocodataset.org" if coco else "the pictures saiapr_tc-12 named there"
    source = f"https://github.com/lichengunc/refer ({folder}.zip), and {where}"
    data = ReferSet(name, files[:1], files[1], pictures, splits, layout, source, sentences or {})
    return DatasetSpec(
        name, splits, layout, source, partial(load_refer, data, one_object), RULES if coco else CLEF_RULES
    )


SPECS = (
    refer_spec("refclef", "refclef", "unc", ("train", "val", "testA", "testB", "testC", "test")),
    refer_spec("refclef-berkeley", "refclef", "berkeley", ("train", "val", "test")),
    refer_spec("refcoco", "refcoco", "unc", LETTERS, REFCOCO),
    refer_spec("refcoco+", "refcoco+", "unc", LETTERS, REFCOCO_PLUS),
    refer_spec("refcoco-google", "refcoco", "google", ("train", "val", "test")),
    refer_spec("refcocog", "refcocog", "umd", ("train", "val", "test"), REFCOCOG),
    refer_spec("refcocog-google", "refcocog", "google", ("train", "val")),  # its test split was never released
)
