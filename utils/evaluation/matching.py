"""Which predicted mask is scored against which target."""

from __future__ import annotations

from typing import Any, Literal

from pycocotools import mask as coco
from scipy.optimize import linear_sum_assignment

RLE = dict[str, Any]
Pair = tuple[int | None, int | None]


def match(predicted: list[RLE], targets: list[RLE], how: Literal["order", "hungarian"]) -> list[Pair]:
    """Pairs of (prediction, target) by index, by target, then surplus predictions; each index occurs once.

    Args:
        predicted: COCO RLEs, without the pixels that count on neither side (`within`).
        targets: likewise, of the same size.
        how: "order" pairs the first with the first and so on; "hungarian" maximises the sum of IoUs.

    Raises:
        ValueError: `how` is neither.
    """
    if how not in ("order", "hungarian"):
        raise ValueError(f"masks are matched by 'order' or 'hungarian', not by {how!r}")
    pairs = min(len(predicted), len(targets))
    of_target = {i: i for i in range(pairs)} if how == "order" else _assignment(predicted, targets)
    surplus = sorted(set(range(len(predicted))) - set(of_target.values()))
    return [(of_target.get(t), t) for t in range(len(targets))] + [(p, None) for p in surplus]


def within(masks: list[RLE], region: RLE) -> list[RLE]:
    """The masks without what lies outside a region of their size: COCO RLEs whose counts are bytes."""
    return [coco.merge([mask, region], intersect=True) for mask in masks]


def _assignment(predicted: list[RLE], targets: list[RLE]) -> dict[int, int]:
    """The prediction of each target that has one."""
    if not predicted or not targets:
        return {}
    rows, columns = linear_sum_assignment(coco.iou(predicted, targets, [0] * len(targets)), maximize=True)
    return dict(zip(columns.tolist(), rows.tolist(), strict=True))
