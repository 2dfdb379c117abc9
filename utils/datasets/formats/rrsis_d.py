"""RRSIS-D: objects in remote-sensing pictures by their description, in the layout of RMSIN.

    ROOT/rrsisd/refs(unc).p
    ROOT/rrsisd/instances.json
    ROOT/images/rrsisd/JPEGImages/{id}.jpg

ROOT may be rrsisd itself, the pictures in it or beside it.

An object is a list of RLEs; the pictures, 800x800 pixels, and the 20 categories are DIOR's.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from utils.datasets.base import CLEAN, OFFICIAL, DatasetSpec, ScoringRules, Target
from utils.datasets.checks import without_none
from utils.datasets.formats.refer import ReferReader, load_refer
from utils.datasets.formats.refer_labels import ReferSet
from utils.datasets.reading import Photograph

NAME = "rrsis-d"
SPLITS = ("train", "val", "test")
LAYOUT = "rrsisd/refs(unc).p\nrrsisd/instances.json\nimages/rrsisd/JPEGImages/00001.jpg"
SOURCE = "https://github.com/Lsan2401/RMSIN"
# The sum, 17,402, is RMSIN's; its parts are from memory of papers, and have not been held against the files.
SENTENCES = {"train": 12_181, "val": 1_740, "test": 3_481}
DATA = ReferSet(
    NAME,
    ("rrsisd/refs(unc).p",),
    "rrsisd/instances.json",
    "images/rrsisd/JPEGImages",
    SPLITS,
    LAYOUT,
    SOURCE,
    SENTENCES,
)


def one_of_a_category(
    reader: ReferReader, where: str, ref: dict[str, Any], frame: tuple[int, int], photograph: Photograph
) -> tuple[tuple[Target, ...], dict]:
    """The object that a ref names, and its category.

    Raises:
        BadRecord: it is not there, or has no pixels.
    """
    annotation = reader.annotation(where, ref.get("ann_id"), ref)
    targets = (reader.target(where, annotation, frame, photograph),)
    return targets, without_none(category=reader.category(annotation))


OVERLAPS = "Overlaps of an object's RLEs, background there, count as its pixels here"
SPEC = DatasetSpec(
    name=NAME,
    splits=SPLITS,
    layout=LAYOUT,
    source=SOURCE,
    loader=partial(load_refer, DATA, one_of_a_category),
    rules={
        CLEAN: ScoringRules(("giou", "ciou", "pr50", "pr60", "pr70", "pr80", "pr90"), unit="question"),
        OFFICIAL: ScoringRules(
            ("giou", "ciou", "pr50", "pr60", "pr70", "pr80", "pr90"),
            unit="question",
            canvas="square480",
            empty_iou=0.0,
            note=f"as RMSIN scores, at 480x480. {OVERLAPS}",
        ),
        "segearth": ScoringRules(
            ("giou", "ciou", "pr50_strict", "pr60_strict", "pr70_strict", "pr80_strict", "pr90_strict"),
            unit="question",
            canvas="letterbox1024",
            note="as SegEarth-R1 scores, at 1024x1024. It asks the first sentence of a ref, in its field 'raw'; here "
            f"all are asked, as their 'sent'. {OVERLAPS}",
        ),
    },
    group_titles={"category": "category"},
)
