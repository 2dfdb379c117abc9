"""Scores of grounded conversation: descriptions whose phrases have masks.

As GLaMM's eval/gcg/evaluate.py (mbzuai-oryx/groundingLMM@e74865f):

AP, AP50  COCO's, one category, every score 1. So the curve follows the order of pictures, by id as text.
mIoU      in a picture the pair of the largest IoU is taken, then the next of what is left, while it is above 0; the
          mean over the pairs, so that what is left over costs nothing; 0 without a pair; the mean over pictures.
recall    pairs are taken likewise; one counts whose IoU is 0.5 or more and whose phrases are 0.5 or more alike.
          Official: the first pair that does not count ends its picture. Clean: it is only passed over.

Where it is known (`utils.datasets.descriptions.PHRASE_KINDS`) all are given for phrases of one and of several objects
too. AP then ignores the others' targets and whatever matches them; a mask that matches none is wrong for both kinds.
mIoU is that of the pairs whose target is of the kind, over pictures that have such targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from statistics import fmean
from typing import Any

import numpy as np
from pycocotools import mask as coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from utils.datasets.base import CLEAN, GROUNDED, OFFICIAL, DatasetSpec, Sample
from utils.datasets.descriptions import KINDS, PHRASE_KINDS, plain_text
from utils.evaluation.caption_metrics import caption_scores, missing_for_captions
from utils.evaluation.controls import NO_CONTROL
from utils.evaluation.phrase_similarity import Similarity, phrase_similarity
from utils.evaluation.predictions import Record, Records
from utils.evaluation.scoring import target_rles
from utils.runtime.errors import UserError

ALL = "all"
THRESHOLD = 0.5  # of IoU and of similarity
COLUMNS = {"ap50": "AP50", "ap": "AP", "miou": "mIoU", "recall": "recall"}
COUNTED, IGNORED = 1, 3  # areas by which COCOeval is told which targets count


@dataclass(frozen=True)
class Picture:
    """Targets and masks of one picture.

    Args:
        name: the record's id.
        targets: T run lengths.
        masks: M run lengths.
        ious: float64[T, M].
        kinds: of each target, or () where they are not known.
        labels: T phrases.
        phrases: M phrases, or None where the answer has none.
    """

    name: str
    targets: list[dict]
    masks: list[dict]
    ious: np.ndarray
    kinds: tuple[str, ...]
    labels: tuple[str, ...]
    phrases: list[str] | None

    def of_kind(self, kind: str) -> list[bool]:
        """bool[T]: which targets count."""
        return [kind in (ALL, one) for one in self.kinds or (ALL,) * len(self.targets)]


def grounded_scores(
    samples: Sequence[Sample],
    records: Mapping[str, Record],
    official: bool = False,
    similarity: tuple[str, Similarity] | None = None,
) -> dict[str, Any]:
    """The scores of descriptions: of all phrases, of each kind, and of the text.

    Args:
        samples: the split.
        records: by `Sample.key`; a sample without one is scored as answered with nothing.
        official: recall as published; else a pair whose phrases differ does not end its picture.
        similarity: how phrases are compared, in words, and the function; by default `phrase_similarity`.

    Returns:
        rules, pictures, similarity; under "all" and each kind that occurs phrases, ap50, ap, miou and recall, None
        where it cannot be told; meteor and cider where they can be computed; `left_out`, what cannot and why.

    Raises:
        UserError: a mask has another size than its picture.
    """
    told, alike = similarity or phrase_similarity()
    pictures = [_picture(sample, records.get(sample.key)) for sample in samples]
    matched = [_recalled(one, alike, official) for one in pictures]
    without = sum(one.phrases is None and bool(one.masks) for one in pictures)
    left_out = [f"recall is left out: {without} answers have masks without phrases"] if without else []
    kinds = [kind for kind in KINDS if any(kind in one.kinds for one in pictures)]
    found: dict[str, Any] = {"rules": OFFICIAL if official else CLEAN, "pictures": len(pictures), "similarity": told}
    for kind in (ALL, *kinds):
        count = sum(sum(one.of_kind(kind)) for one in pictures)
        hits = sum(
            one.of_kind(kind)[target] for one, targets in zip(pictures, matched, strict=True) for target in targets
        )
        found[kind] = {
            "phrases": count,
            **average_precision(pictures, kind),
            "miou": mean_iou(pictures, kind),
            "recall": None if without or not count else hits / count,
        }
    if missing := missing_for_captions():
        left_out.append(missing)
    else:
        found |= caption_scores(
            {sample.key: plain_text(sample.answer or "") for sample in samples},
            {sample.key: plain_text(records.get(sample.key, {}).get("text", "")) for sample in samples},
        )
    return {**found, "left_out": left_out}


def _picture(sample: Sample, record: Record | None) -> Picture:
    targets, masks = target_rles(sample), [] if record is None else record["masks"]
    for i, mask in enumerate(masks):
        if tuple(mask["size"]) != sample.size:
            raise UserError(f"record {sample.key!r}: masks[{i}] has another size than its picture")
    ious = np.zeros((len(targets), len(masks)))
    if targets and masks:
        ious = np.asarray(coco.iou(targets, masks, [False] * len(masks)))
    return Picture(
        name=sample.record_id,
        targets=targets,
        masks=masks,
        ious=ious,
        kinds=tuple(sample.groups.get(PHRASE_KINDS, ())),
        labels=sample.phrases,
        phrases=None if record is None else record.get("phrases"),
    )


def greedy_pairs(values: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of a row and a column of float[A, B], each used once, from the largest value down to above 0.

    Of equal values the first row's comes first, then the first column's.
    """
    left, pairs = values.copy(), []
    while left.size and left.max() > 0:
        row, column = (int(i) for i in np.unravel_index(np.argmax(left), left.shape))
        pairs.append((row, column))
        left[row, :] = left[:, column] = 0
    return pairs


def mean_iou(pictures: Sequence[Picture], kind: str = ALL) -> float | None:
    """The mean over pictures of the mean IoU of their pairs; None where no picture has targets of the kind."""
    means = []
    for one in pictures:
        counted = one.of_kind(kind)
        if any(counted) or kind == ALL:
            # By masks first, so that ties are broken as they were for the published numbers.
            paired = [one.ious[target, mask] for mask, target in greedy_pairs(one.ious.T) if counted[target]]
            means.append(fmean(paired) if paired else 0.0)
    return fmean(means) if means else None


def _recalled(one: Picture, alike: Similarity, official: bool) -> list[int]:
    """The targets of a picture that are found, phrase and mask."""
    if one.phrases is None:
        return []
    near = np.where(one.ious >= THRESHOLD, one.ious, 0)
    if not official:
        for target, mask in zip(*np.nonzero(near), strict=True):
            if alike(one.labels[target], one.phrases[mask]) < THRESHOLD:
                near[target, mask] = 0
    found = []
    for target, mask in greedy_pairs(near):
        if official and alike(one.labels[target], one.phrases[mask]) < THRESHOLD:
            break
        found.append(target)
    return found


def average_precision(pictures: Sequence[Picture], kind: str = ALL) -> dict[str, float | None]:
    """`ap50` and `ap` by COCOeval, at most 100 masks a picture; None where nothing of the kind is to be found."""
    images, targets, masks = [], [], []
    for number, one in enumerate(sorted(pictures, key=lambda one: one.name), 1):
        height, width = (one.targets or one.masks or [{"size": (1, 1)}])[0]["size"]
        images.append({"id": number, "height": height, "width": width})
        for rle, counted in zip(one.targets, one.of_kind(kind), strict=True):
            area = COUNTED if counted else IGNORED
            targets.append(_annotation(len(targets), number, rle, area) | {"iscrowd": 0})
        masks += [_annotation(len(masks) + i, number, rle, COUNTED) | {"score": 1.0} for i, rle in enumerate(one.masks)]
    with redirect_stdout(StringIO()):  # it prints what it does
        evaluation = COCOeval(_coco(images, targets), _coco(images, masks), "segm")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, (COUNTED + IGNORED) / 2]], [ALL]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, 0, 0, 0]  # float[thresholds, recalls]; -1 where there is nothing
    if not targets or precision.max() < 0:
        return {"ap50": None, "ap": None}
    return {"ap50": float(precision[0].mean()), "ap": float(precision.mean())}


def _annotation(before: int, image: int, rle: dict, area: int) -> dict[str, Any]:
    """Of COCO; the id is not 0, which COCOeval takes for none."""
    return {"id": before + 1, "image_id": image, "category_id": 1, "segmentation": rle, "area": area}


def _coco(images: list[dict], annotations: list[dict]) -> COCO:
    made = COCO()
    made.dataset = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}
    made.createIndex()
    return made


def grounded_table(result: Mapping[str, Any]) -> str:
    """The scores as aligned text, and what is left out."""
    lines = [
        f"grounded conversation, {result['rules']} rules: {result['pictures']} pictures; phrases are compared "
        f"{result['similarity']}",
        f"{'':<28}{'phrases':>7}" + "".join(f"{title:>9}" for title in COLUMNS.values()),
    ]
    for kind in (kind for kind in (ALL, *KINDS) if kind in result):
        row = result[kind]
        values = ("" if row[name] is None else f"{row[name]:.4f}" for name in COLUMNS)
        label = kind if kind == ALL else f"  {kind}"
        lines.append((f"{label:<28}{row['phrases']:>7}" + "".join(f"{value:>9}" for value in values)).rstrip())
    if result.get("official_recall") is not None:
        lines.append(f"recall by the official rule: {result['official_recall']:.4f}")
    if "meteor" in result:
        lines.append(f"METEOR {result['meteor']:.4f}, CIDEr {result['cider']:.4f}")
    return "\n".join([*lines, *result["left_out"]])


def add_grounded(
    metrics: dict[str, Any], samples: Sequence[Sample], records: Records, spec: DatasetSpec, metric: str = CLEAN
) -> str:
    """Put `grounded` into the content of metrics.json where the data set asks for it, and return its table as lines
    that follow another's; "" where it does not.

    Args:
        metrics: what is added to.
        samples: of the split.
        records: by control and key; those of no control are scored.
        spec: of the data set.
        metric: "official" for the published rules.

    Raises:
        UserError: a mask has another size than its picture.
    """
    if spec.task != GROUNDED:
        return ""
    found = grounded_scores(samples, records[NO_CONTROL], metric == OFFICIAL)
    if metric == CLEAN:
        official = grounded_scores(samples, records[NO_CONTROL], official=True)
        found["official_recall"] = official[ALL]["recall"]
    metrics["grounded"] = found
    return f"\n{grounded_table(found)}"
