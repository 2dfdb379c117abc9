"""Which predicted mask is scored against which target."""

from __future__ import annotations

from typing import Any, Literal

import networkx
from pycocotools import mask as coco

RLE = dict[str, Any]
Pair = tuple[int | None, int | None]
STEPS = 10**9  # IoUs are matched as whole numbers of this fraction, so that sums do not depend on rounding


def match(predicted: list[RLE], targets: list[RLE], how: Literal["order", "hungarian"]) -> list[Pair]:
    """Pairs of (prediction, target) by index, by target, then surplus predictions; each index occurs once.

    Args:
        predicted: COCO RLEs, whose counts are text.
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


def _assignment(predicted: list[RLE], targets: list[RLE]) -> dict[int, int]:
    """The prediction of each target that has one."""
    if not predicted or not targets:
        return {}
    ious = coco.iou(predicted, targets, [0] * len(targets))
    graph = networkx.Graph()
    for p in range(len(predicted)):
        for t in range(len(targets)):
            graph.add_edge(("p", p), ("t", t), weight=round(float(ious[p, t]) * STEPS))
    chosen = networkx.max_weight_matching(graph, maxcardinality=True)
    ends = [dict(pair) for pair in chosen]
    return {end["t"]: end["p"] for end in ends}
