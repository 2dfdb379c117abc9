"""Scores of predictions against the data set: exact pixel counts, matched by the data set's rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco

from model import answering
from model.answering import BROKEN, OK
from model.language.answers import is_well_formed
from model.masks import encode_mask, polygons_rle
from utils.datasets.base import Sample, ScoringRules, draw_target, ignored_pixels
from utils.evaluation.calibration import calibration
from utils.evaluation.canvas import canvas_size, on_canvas
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
    samples: Sequence[Sample], records: dict[str, Record], rules: ScoringRules
) -> list[tuple[MaskScore, Record | None, int | None]]:
    """The scored pairs of masks of a split, in its order: score, record and index of the predicted mask, None where
    there is none.

    Args:
        samples: the split.
        records: by `Sample.key`; a sample without one is scored as answered with nothing.
        rules: how they are scored.

    Raises:
        UserError: a mask has another size than its picture.
    """
    scored, names = [], picture_names(samples)
    for sample in samples:
        name = names[sample.image_path]
        record = records.get(sample.key)
        masks = [] if record is None else record["masks"]
        for i, mask in enumerate(masks):
            if tuple(mask["size"]) != sample.size:
                (height, width), (tall, wide) = mask["size"], sample.size
                raise UserError(
                    f"record {sample.key!r}: masks[{i}] has {width}x{height} pixels, its picture {wide}x{tall}; "
                    "predict in the picture's own size"
                )
        scored += [(score, record, mask) for score, mask in score_answer(sample, masks, record, rules, name)]
    return scored


def picture_names(samples: Sequence[Sample]) -> dict[Path, str]:
    """What results call each picture: folder and name, and folders above where two would have the same."""
    paths = list(dict.fromkeys(sample.image_path for sample in samples))
    depth = 2
    while depth < max((len(path.parts) for path in paths), default=0):
        if len({path.parts[-depth:] for path in paths}) == len(paths):
            break
        depth += 1
    return {path: shown_name("/".join(path.parts[-depth:])) for path in paths}


def score_answer(
    sample: Sample, masks: list[dict], record: Record | None, rules: ScoringRules, picture: str
) -> list[tuple[MaskScore, int | None]]:
    """The scores of one answer, each with the index of its predicted mask.

    Pixels of the ignore region are taken off first, and masks are brought to the canvas: they are matched by what is
    counted.
    """
    targets = target_rles(sample, rules.covered_once)
    if sample.ignore is not None:
        counted = encode_mask(~ignored_pixels(sample, *sample.size))
        masks, targets = within(masks, counted), within(targets, counted)
    scores = None if record is None else record["scores"]
    if rules.unit == QUESTION or not targets:  # where nothing is to be marked, whatever is marked counts once
        masks, targets = ([coco.merge(side)] if side else [] for side in (masks, targets))
        scores = [max(scores)] if scores else None
    masks, targets = (on_canvas(side, rules.canvas) for side in (masks, targets))
    # a pair of nothing with nothing where there is nothing to mark and nothing is
    pairs = match(masks, targets, rules.matching) or [(None, None)]
    return [(_score(sample, rules, (m, masks), (t, targets), scores, picture), m) for m, t in pairs]


def _score(
    sample: Sample,
    rules: ScoringRules,
    predicted: tuple[int | None, list[dict]],
    target: tuple[int | None, list[dict]],
    scores: list[float] | None,
    picture: str,
) -> MaskScore:
    """The score of a pair, of which either side may be missing: the number of each, and those that it is one of.

    Where there is no target at all an empty mask is right.
    """
    (m, masks), (t, targets) = predicted, target
    mask, truth = None if m is None else masks[m], None if t is None else targets[t]
    intersection, union, area = overlap(mask, truth)
    height, width = canvas_size(sample.size, rules.canvas)
    return MaskScore(
        index=sample.index,
        target=-1 if t is None else t,
        intersection=intersection,
        union=union,
        area=area,
        pixels=height * width,
        groups=sample.groups,
        picture=picture,
        matched=(mask is None) == (truth is None) or not sample.targets,
        confidence=scores[m] if scores and m is not None else None,
        predicted=mask is not None,
        targets=len(sample.targets),
        empty_iou=rules.empty_iou if sample.targets else 1.0,
        record=sample.record_id,
        for_precision=t is not None or rules.precision_of_all and not sample.targets,
    )


def overlap(mask: dict | None, truth: dict | None) -> tuple[int, int, int]:
    """Intersection, union and area of the truth in pixels; a side that is None is empty. Exact."""
    areas = [0 if one is None else int(coco.area(one)) for one in (mask, truth)]
    both = int(coco.area(coco.merge([mask, truth], intersect=True))) if None not in (mask, truth) else 0
    return both, sum(areas) - both, areas[1]


def target_rles(sample: Sample, covered_once: bool = False) -> list[dict]:
    """The targets as run lengths in the picture's size; the ignore region is not taken off.

    Args:
        sample: whose targets they are.
        covered_once: leave out what several polygons of a target cover.
    """
    frame, found = (sample.height, sample.width), []
    for target in sample.targets:
        if isinstance(target, dict):
            found.append(encode_mask(draw_target(sample, target, *sample.size)))
        elif covered_once and len(target) > 1:
            each = [coco.decode(polygons_rle((polygon,), frame, sample.size)) for polygon in target]
            found.append(encode_mask(np.sum(each, axis=0) == 1))
        else:
            found.append(polygons_rle(target, frame, sample.size))
    return found


def answer_status(sample: Sample, record: Record | None, unit: str) -> str:
    """The status of an answer: as predicted, "wrong_count" where the number of masks is not that of the targets, or
    "missing". Where there is no target, an answer without [SEG], or whose masks are empty, is as it should be."""
    if record is None:
        return MISSING
    if not sample.targets and record["status"] != BROKEN:
        return WRONG_COUNT if any(coco.area(mask) for mask in record["masks"]) else OK
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
    samples: Sequence[Sample], records: Records, rules: ScoringRules, groups: Iterable[str], reasoned: bool = False
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The scores of metrics.json, and the lines of scores.jsonl.

    Args:
        samples: the split.
        records: by control and key; that of no control is scored in full.
        rules: how they are scored.
        groups: names of `Sample.groups` that scores are broken down by.
        reasoned: whether answers should hold reasoning, so that malformed ones are counted.
    """
    found, lines = {}, []
    for control, of_control in records.items():
        scored = score_records(samples, of_control, rules)
        scores = [score for score, _, _ in scored]
        found[control] = breakdowns(scores, rules, groups, with_intervals)
        if control == NO_CONTROL:
            found[control]["calibration"] = calibration(scores)
        by_index = {sample.index: sample for sample in samples}
        lines += [score_line(by_index[one[0].index], control, *one, rules.unit) for one in scored]
    metrics = found.pop(NO_CONTROL)
    metrics["answers"] = count_answers(samples, records[NO_CONTROL], rules.unit, reasoned)
    if found:
        metrics["controls"] = found
    return metrics, lines


def with_intervals(scores: list[MaskScore], metrics: Iterable[str]) -> dict[str, Any]:
    """A summary with the 95 % interval of each metric that counts anything."""
    summary = summarise(scores, metrics)
    counted = [name for name in metrics if summary[name] is not None]
    return summary | {f"{name}_interval": found for name, found in intervals(scores, counted).items()}


def score_line(
    sample: Sample, control: str, score: MaskScore, record: Record | None, mask: int | None, unit: str
) -> dict[str, Any]:
    """A line of scores.jsonl."""
    return {
        "id": sample.key,
        "picture": score.picture,
        "record": score.record,
        "target": None if score.target < 0 else score.target,
        "targets": score.targets,
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
