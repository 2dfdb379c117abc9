"""gRefCOCO: sentences that refer to one object, several or none, in the layout of henghuiding/gRefCOCO and ReLA.

    ROOT/grefcoco/grefs(unc).p or ROOT/grefcoco/grefs(unc).json
    ROOT/grefcoco/instances.json
    ROOT/images/train2014/COCO_train2014_{12 digits}.jpg

ROOT may be grefcoco itself, the pictures in it or beside it.

A ref's `ann_id` is a list of objects; `[-1]` means that nothing in the picture is meant. Every object is a target, and
their union is what is scored. Crowds among the objects are left out, as the published reader does.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from utils.datasets.base import CLEAN, BadRecord, DatasetSpec, ScoringRules, Target
from utils.datasets.checks import shortened
from utils.datasets.formats.refer import ReferReader, load_refer
from utils.datasets.formats.refer_labels import ReferSet
from utils.datasets.reading import Photograph

NAME = "grefcoco"
NOTHING = -1  # an ann_id
SPLITS = ("train", "val", "testA", "testB")
LAYOUT = (
    "grefcoco/grefs(unc).p, or grefcoco/grefs(unc).json\ngrefcoco/instances.json\n"
    "images/train2014/COCO_train2014_000000000009.jpg"
)
SOURCE = "https://github.com/henghuiding/gRefCOCO, and COCO's train2014 from https://cocodataset.org"
DATA = ReferSet(
    NAME,
    ("grefcoco/grefs(unc).p", "grefcoco/grefs(unc).json"),
    "grefcoco/instances.json",
    "images/train2014",
    SPLITS,
    LAYOUT,
    SOURCE,
    lettered=False,
)


def objects(
    reader: ReferReader, where: str, ref: dict[str, Any], frame: tuple[int, int], photograph: Photograph
) -> tuple[tuple[Target, ...], dict]:
    """The objects that a ref names, none of them a crowd, and the group that their number makes.

    Raises:
        BadRecord: one is not there or has no pixels, or the ref contradicts itself.
    """
    named = ref.get("ann_id")
    ids = named if isinstance(named, list) else [named]
    none = ids == [NOTHING]
    if not ids or (NOTHING in ids and not none):
        raise BadRecord(f"{where}: ann_id is {shortened(named)}, expected objects, or [-1] where none is meant")
    if not none and ref.get("no_target", False) not in (False, None, 0):
        raise BadRecord(f"{where}: no_target is {shortened(ref['no_target'])}, but ann_id names {shortened(named)}")
    if none:
        return (), {"targets": "none"}
    annotations = [reader.annotation(where, one, ref) for one in ids]
    found = {one["id"]: one for one in annotations if not one.get("iscrowd")}
    targets = tuple(reader.target(where, one, frame, photograph) for one in found.values())
    if not targets:
        raise BadRecord(f"{where}: all objects that it names are crowds: {shortened(named)}")
    return targets, {"targets": "one" if len(targets) == 1 else "several"}


SPEC = DatasetSpec(
    name=NAME,
    splits=SPLITS,
    layout=LAYOUT,
    source=SOURCE,
    loader=partial(load_refer, DATA, objects),
    rules={
        CLEAN: ScoringRules(
            ("giou", "ciou", "n_acc", "t_acc", "pr70", "pr80", "pr90"),
            unit="question",
            note="as ReLA scores. Pr counts questions with a target alone. 'Nothing is meant' is answered by no mask "
            "or an empty one, and by no other number of pixels (some papers call a mask under 50 pixels empty)",
        )
    },
    group_titles={"targets": "targets"},
    no_target=True,
)
