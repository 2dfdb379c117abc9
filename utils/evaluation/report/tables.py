"""Scores as aligned text."""

from __future__ import annotations

from utils.datasets.base import DatasetSpec
from utils.evaluation.metrics import METRICS


def table(scores: dict[str, dict], spec: DatasetSpec) -> str:
    """`utils.evaluation.metrics.breakdowns` as aligned text: count and the data set's metrics in each row."""
    titles = {"target_size": "target size", **spec.group_titles}
    lines = [_row("", "count", [METRICS[name].title for name in spec.metrics])]
    lines.append(_summary_row("overall", scores["overall"], spec))
    for name, title in titles.items():
        groups = scores.get(f"by_{name}", {})
        if groups:
            lines.append(title)
        lines += [_summary_row(f"  {value}", one, spec) for value, one in groups.items()]
    return "\n".join(lines)


def _summary_row(label: str, summary: dict, spec: DatasetSpec) -> str:
    return _row(label, summary["count"], [f"{summary[name]:.4f}" for name in spec.metrics])


def _row(label: str, count: int | str, cells: list[str]) -> str:
    return f"{label:<28}{count:>7}" + "".join(f"{cell:>9}" for cell in cells)
