"""Scores of predictions against the data set: exact pixel counts, matched by the data set's rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from pycocotools import mask as coco

from model import answering
from model.answering import OK
from model.language.answers import is_well_formed
from model.masks import encode_mask, polygons_rle
from utils.datasets.base import DatasetSpec, Sample, draw_target, ignored_pixels
from utils.evaluation.calibration import calibration
from utils.evaluation.controls import NO_CONTROL
from utils.evaluation.intervals import intervals
from utils.evaluation.matching import match, within
from utils.evaluation.metrics import MaskScore, breakdowns, summarise
from utils.evaluation.predictions import Record, Records
from utils.runtime.errors import UserError
from utils.runtime.text import shown_name

WRONG_COUNT, MISSING = "wrong_count", "missing"
STATUSES = (*answering.STATUSES, WRONG_COUNT, MISSING)  # of answers, as they are scored
QUESTION = "question"  # the unit of evaluation in which all masks of an answer count as their union


def score_records(
    samples: Sequence[Sample], records: dict[str, Record], spec: DatasetSpec, unit: str
) -> list[tuple[MaskScore, Record | None, int | None]]:
    """The scored pairs of masks of a split, in its order: score, record and index of the predicted mask, None where
    there is none.

    Args:
        samples: the split.
        records: by `Sample.key`; a sample without one is scored as answered with nothing.
        spec: of the data set, for its matching.
        unit: "target", or "question" where the masks of an answer, and its targets, count as their union.

    Raises:
        UserError: a mask has another size than its picture.
    """
    scored = []
    for sample in samples:
        record = records.get(sample.key)
        masks = [] if record is None else record["masks"]
        for i, mask in enumerate(masks):
            if tuple(mask["size"]) != sample.size:
                (height, width), (tall, wide) = mask["size"], sample.size
                raise UserError(
                    f"record {sample.key!r}: masks[{i}] has {width}x{height} pixels, its picture {wide}x{tall}; "
                    "predict in the picture's own size"
                )
        scored += [(score, record, mask) for score, mask in score_answer(sample, masks, record, spec.matching, unit)]
    return scored


def score_answer(
    sample: Sample, masks: list[dict], record: Record | None, matching: str, unit: str
) -> list[tuple[MaskScore, int | None]]:
    """The scores of one answer, each with the index of its predicted mask.

    Pixels of the ignore region are taken off first: masks are matched by what is counted.
    """
    targets = target_rles(sample)
    if sample.ignore is not None:
        counted = encode_mask(~ignored_pixels(sample, *sample.size))
        masks, targets = within(masks, counted), within(targets, counted)
    scores = None if record is None else record["scores"]
    if unit == QUESTION or not targets:  # where nothing is to be marked, whatever is marked counts once
        masks, targets = ([coco.merge(side)] if side else [] for side in (masks, targets))
        scores = [max(scores)] if scores else None
    if not masks and not targets:
        return [(_score(sample, None, None, None, None), None)]
    pairs = match(masks, targets, matching)
    return [
        (
            _score(
                sample,
                t,
                None if m is None else masks[m],
                None if t is None else targets[t],
                scores[m] if scores and m is not None else None,
            ),
            m,
        )
        for m, t in pairs
    ]


def _score(
    sample: Sample, target: int | None, mask: dict | None, truth: dict | None, confidence: float | None
) -> MaskScore:
    """The score of a pair, of which either side may be missing; both are where there is nothing to mark and nothing is.

    Where there is no target at all an empty mask is right.
    """
    intersection, union, area = overlap(mask, truth)
    return MaskScore(
        index=sample.index,
        target=-1 if target is None else target,
        intersection=intersection,
        union=union,
        area=area,
        pixels=sample.size[0] * sample.size[1],
        groups=sample.groups,
        picture=shown_name("/".join(sample.image_path.parts[-2:])),
        matched=(mask is None) == (truth is None) or not sample.targets,
        confidence=confidence,
    )


def overlap(mask: dict | None, truth: dict | None) -> tuple[int, int, int]:
    """Intersection, union and area of the truth in pixels; a side that is None is empty. Exact."""
    areas = [0 if one is None else int(coco.area(one)) for one in (mask, truth)]
    both = int(coco.area(coco.merge([mask, truth], intersect=True))) if None not in (mask, truth) else 0
    return both, sum(areas) - both, areas[1]


def target_rles(sample: Sample) -> list[dict]:
    """The targets as run lengths in the picture's size; the ignore region is not taken off."""
    frame = sample.height, sample.width
    return [
        encode_mask(draw_target(sample, target, *sample.size))
        if isinstance(target, dict)
        else polygons_rle(target, frame, sample.size)
        for target in sample.targets
    ]


def answer_status(sample: Sample, record: Record | None, unit: str) -> str:
    """The status of an answer: as predicted, "wrong_count" where the number of masks is not that of the targets, or
    "missing"."""
    if record is None:
        return MISSING
    expected = min(len(sample.targets), 1) if unit == QUESTION else len(sample.targets)
    counted = min(len(record["masks"]), 1) if unit == QUESTION else len(record["masks"])
    return record["status"] if record["status"] != OK or counted == expected else WRONG_COUNT


def count_answers(samples: Sequence[Sample], records: dict[str, Record], unit: str, reasoned: bool) -> dict[str, Any]:
    """How many answers have which status, and how many are not well formed where the model was to reason."""
    counts = Counter(answer_status(sample, records.get(sample.key), unit) for sample in samples)
    malformed = [sample for sample in samples if not is_well_formed(records.get(sample.key, {}).get("text", ""))]
    return {
        "records": len(samples),
        **{status: counts[status] for status in STATUSES},
        "malformed": len(malformed) if reasoned else None,
    }


def score_predictions(
    samples: Sequence[Sample], records: Records, spec: DatasetSpec, unit: str, reasoned: bool = False
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The scores of metrics.json, and the lines of scores.jsonl.

    Args:
        samples: the split.
        records: by control and key; that of no control is scored in full.
        spec: of the data set.
        unit: as for `score_records`.
        reasoned: whether answers should hold reasoning, so that malformed ones are counted.
    """
    found, lines = {}, []
    for control, of_control in records.items():
        scored = score_records(samples, of_control, spec, unit)
        scores = [score for score, _, _ in scored]
        found[control] = breakdowns(scores, spec, with_intervals)
        if control == NO_CONTROL:
            found[control]["calibration"] = calibration(scores)
        by_index = {sample.index: sample for sample in samples}
        lines += [score_line(by_index[one[0].index], control, *one, unit) for one in scored]
    metrics = found.pop(NO_CONTROL)
    metrics["answers"] = count_answers(samples, records[NO_CONTROL], unit, reasoned)
    if found:
        metrics["controls"] = found
    return metrics, lines


def with_intervals(scores: list[MaskScore], metrics: Iterable[str]) -> dict[str, Any]:
    """A summary with the 95 % interval of each metric."""
    summary = summarise(scores, metrics)
    return summary | {f"{name}_interval": found for name, found in intervals(scores, metrics).items()}


def score_line(
    sample: Sample, control: str, score: MaskScore, record: Record | None, mask: int | None, unit: str
) -> dict[str, Any]:
    """A line of scores.jsonl."""
    return {
        "id": sample.key,
        "picture": score.picture,
        "target": None if score.target < 0 else score.target,
        "mask": mask,
        "merged": unit == QUESTION or not sample.targets,
        "iou": score.iou,
        "intersection": score.intersection,
        "union": score.union,
        "area": score.area,
        "pixels": score.pixels,
        "score": score.confidence,
        "status": answer_status(sample, record, unit),
        "groups": dict(score.groups),
        **({} if control == NO_CONTROL else {"control": control}),
    }
