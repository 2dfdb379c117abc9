"""What the page's gallery shows: scored pairs of one or two evaluations, joined with their records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pycocotools import mask as coco

from model.answering import BROKEN, NO_SEG, OK
from utils.datasets.base import Sample, target_count
from utils.evaluation.metrics import SIZE_CLASSES, MaskScore
from utils.evaluation.metrics_file import CURE
from utils.evaluation.report.outlines import Outlines, OutlineTask, record_outlines, view_size
from utils.evaluation.report.runs import Run
from utils.evaluation.report.workers import mapped
from utils.evaluation.scores_file import SCORES_FILE, Pair
from utils.evaluation.scoring import MISSING, WRONG_COUNT
from utils.runtime.errors import UserError

# An answer's failure comes before its overlap: such an answer is not good, however its masks lie.
KINDS = {
    NO_SEG: "no [SEG] in the answer",
    BROKEN: "broken [SEG] group",
    WRONG_COUNT: "wrong number of masks",
    MISSING: "no answer",
    "missed": "missed (IoU 0)",
    "poor": "poor (IoU < 0.5)",
    "good": "good (IoU ≥ 0.5)",
}
OUTLINE_BYTES = 12_000_000  # of all paths together
OUTLINE_LENGTHS = (120, 3000)  # characters of a path that are always allowed, and that are enough
Key = tuple[str, int | None, int | None]  # id, target, and the mask where it has no target
Masks = tuple[dict[str, Any], ...]  # COCO RLEs, as they were scored


def kind_of(pair: Pair) -> str:
    """What became of a pair, as one of KINDS."""
    if pair.status != OK:
        return pair.status
    return "missed" if pair.iou == 0 else "poor" if pair.iou < 0.5 else "good"


def key_of(pair: Pair) -> Key:
    """What is the same for a pair in two evaluations."""
    return pair.id, pair.target, pair.mask if pair.target is None else None


def size_class(pair: Pair) -> str:
    """One of SIZE_CLASSES, as the tables have it."""
    return MaskScore(0, 0, 0, 0, pair.area, pair.pixels).size_class


@dataclass(frozen=True)
class Gallery:
    """The page's data, and its pictures as (path, upright) in the order of their numbers there."""

    data: dict[str, Any]
    pictures: list[tuple[Path, bool]]


def build_gallery(
    runs: list[Run], samples: Mapping[str, Sample], merged: bool, group_titles: Mapping[str, str]
) -> Gallery:
    """Join evaluations with their records.

    Args:
        runs: one or two.
        samples: by id.
        merged: a record's targets were scored as their union.
        group_titles: groups to filter by.

    Raises:
        UserError: a scored record or target is not in `samples`.
    """
    joined = [{key_of(pair): pair for pair in run.pairs} for run in runs]
    keys = list(dict.fromkeys(key for pairs in joined for key in pairs))
    _check_known(runs, samples)
    ids = list(dict.fromkeys(key[0] for key in keys))
    masks = [{name: _masks(run, samples[name], merged) for name in ids} for run in runs]
    outlines = _outlines(masks, ids, samples, merged)
    for run, of_run in zip(runs, masks, strict=True):
        _check_numbers(run, outlines, of_run)
    numbers: dict[tuple[Path, bool], int] = {}
    for name in ids:
        numbers.setdefault((samples[name].image_path, samples[name].upright), len(numbers))
    views: list[tuple[int, int]] = [(1, 1)] * len(numbers)
    values: dict[str, dict[str, int]] = {name: {} for name in group_titles}
    records = []
    for key in keys:
        sample, drawn = samples[key[0]], outlines[key[0]]
        picture = numbers[sample.image_path, sample.upright]
        views[picture] = view_size(*sample.size)
        found = [pairs.get(key) for pairs in joined]
        counts = [len(of_run[key[0]]) for of_run in masks]
        records.append(_record(runs, found, counts, sample, drawn, picture, values))
    data = {
        "runs": [run.name for run in runs],
        "kinds": list(KINDS.items()),
        "sizes": SIZE_CLASSES,
        "groups": [[title, list(values[name])] for name, title in group_titles.items()],
        "pictures": views,
        "records": records,
    }
    return Gallery(data, list(numbers))


def _check_known(runs: list[Run], samples: Mapping[str, Sample]) -> None:
    for run in runs:
        lost = [pair.id for pair in run.pairs if pair.id not in samples]
        if lost:
            raise UserError(
                f"{run.folder / SCORES_FILE}: {len(lost)} of {len(run.pairs)} scores are of records that the data set "
                f"lacks, such as {lost[0]!r}; name the data, split and options of reading that were evaluated"
            )


def _check_numbers(run: Run, outlines: Mapping[str, Outlines], masks: Mapping[str, Masks]) -> None:
    for pair in run.pairs:
        if pair.mask is not None and pair.mask >= len(masks[pair.id]):
            raise UserError(
                f"{run.folder / SCORES_FILE}: record {pair.id!r} has {len(masks[pair.id])} masks as they were scored, "
                f"but its mask {pair.mask} has a score; {CURE}"
            )
        count = len(outlines[pair.id].targets)
        if pair.target is not None and pair.target >= count:
            raise UserError(
                f"{run.folder / SCORES_FILE}: record {pair.id!r} has {count} targets in the data, but its target "
                f"{pair.target} was scored; name the data and options of reading that were evaluated"
            )


def _masks(run: Run, sample: Sample, merged: bool) -> Masks:
    """The masks of an answer as `utils.evaluation.scoring` takes them: where they count as one, their union."""
    masks = run.answers[sample.key]["masks"] if sample.key in run.answers else []
    return (coco.merge(masks),) if masks and (merged or not sample.targets) else tuple(masks)


def _outlines(
    masks: list[dict[str, Masks]], ids: list[str], samples: Mapping[str, Sample], merged: bool
) -> dict[str, Outlines]:
    """The paths of each record; the predicted masks of all runs one after the other."""
    predicted = {name: tuple(mask for of_run in masks for mask in of_run[name]) for name in ids}
    count = sum(len(predicted[name]) + target_count(samples[name], merged) for name in ids)
    least, enough = OUTLINE_LENGTHS
    longest = min(max(OUTLINE_BYTES // max(count, 1), least), enough)
    tasks = [OutlineTask(samples[name], merged, predicted[name], longest) for name in ids]
    return dict(zip(ids, mapped(record_outlines, tasks), strict=True))


def _record(
    runs: list[Run],
    pairs: list[Pair | None],
    counts: list[int],
    sample: Sample,
    drawn: Outlines,
    picture: int,
    values: dict[str, dict[str, int]],
) -> list[Any]:
    """A row of the page's `records`; page.js names its columns.

    Args:
        runs: the evaluations.
        pairs: of each of them, None where it has none.
        counts: of the record's masks in each of them.
        sample: the record.
        drawn: its paths.
        picture: its picture's number.
        values: numbers of the values of each group so far; new ones are added.
    """
    one = next(pair for pair in pairs if pair is not None)
    groups = []
    for name, numbers in values.items():
        value = one.groups.get(name)
        groups.append(-1 if value is None else numbers.setdefault(str(value), len(numbers)))
    results: list[Any] = []
    before = 0  # masks of earlier runs
    for run, pair, count in zip(runs, pairs, counts, strict=True):
        if pair is None:
            results.append(0)
        else:
            path = "" if pair.mask is None else drawn.predicted[before + pair.mask]
            score = None if pair.score is None else round(pair.score, 3)
            text = run.answers[pair.id]["text"] if pair.id in run.answers else ""
            results.append([round(pair.iou, 4), score, list(KINDS).index(kind_of(pair)), text, path])
        before += count
    has_target = one.target is not None
    texts = {result[3] for result in results if result}
    return [
        one.id,
        one.target,
        len(drawn.targets),
        picture,
        sample.question,
        groups,
        float(f"{one.area / one.pixels:.3g}") if has_target else None,
        SIZE_CLASSES.index(size_class(one)) if has_target else -1,
        drawn.targets[one.target] if one.target is not None else "",
        sample.answer if sample.answer and texts != {sample.answer} else "",
        results,
    ]
