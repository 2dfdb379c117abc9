"""Scores as aligned text."""

from __future__ import annotations

TITLES = {
    "overall": "",
    "by_reasoning_type": "reasoning type",
    "by_target_size": "target size",
    "by_altitude": "altitude (m)",
}


def table(scores: dict[str, dict]) -> str:
    """`utils.evaluation.metrics.breakdowns` as aligned text: count, gIoU, cIoU in each row."""
    lines = [f"{'':<28}{'count':>7}{'gIoU':>9}{'cIoU':>9}"]
    for key, title in TITLES.items():
        groups = {"overall": scores[key]} if key == "overall" else scores.get(key, {})
        if title and groups:
            lines.append(title)
        for name, one in groups.items():
            label = f"  {name}" if title else name
            lines.append(f"{label:<28}{one['count']:>7}{one['giou']:>9.4f}{one['ciou']:>9.4f}")
    return "\n".join(lines)
