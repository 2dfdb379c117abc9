"""Charts as inline SVG, each with its numbers as a table for readers who do not see it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np

WIDTH, HEIGHT = 380, 280  # near the size at which they are shown, so that letters have theirs
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 22, 44
IOU_BINS = 20
Z95 = 1.96
Point = tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """A figure: its drawing, caption and numbers.

    Args:
        svg: the drawing.
        caption: one sentence or two, in HTML.
        header: of the table of its numbers.
        rows: of that table.
    """

    svg: str
    caption: str
    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Axes:
    """Where values lie in a drawing: the ranges of x and y are 0 to 1, or `low` to `high`."""

    low: Point = (0.0, 0.0)
    high: Point = (1.0, 1.0)

    def x(self, value: float) -> float:
        """The pixel of a value on the horizontal axis."""
        share = (value - self.low[0]) / (self.high[0] - self.low[0])
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        """Likewise on the vertical one."""
        share = (value - self.low[1]) / (self.high[1] - self.low[1])
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    def frame(self, titles: tuple[str, str], x_ticks: dict[float, str], y_ticks: dict[float, str]) -> str:
        """Axes, grid and labels; ticks are values and what stands at them."""
        left, right, bottom = self.x(self.low[0]), self.x(self.high[0]), self.y(self.low[1])
        lines = []
        for value, label in y_ticks.items():
            lines.append(f'<path class="grid" d="M{left} {self.y(value)}H{right}"/>')
            lines.append(_text(left - 7, self.y(value) + 4, label, "end"))
        for value, label in x_ticks.items():
            lines.append(f'<path class="axis" d="M{self.x(value)} {bottom}v4"/>')
            lines.append(_text(self.x(value), bottom + 18, label, "middle"))
        lines.append(f'<path class="axis" d="M{left} {bottom}H{right}"/>')
        lines.append(_text((left + right) / 2, HEIGHT - 6, titles[0], "middle", "title"))
        middle = (TOP + HEIGHT - BOTTOM) / 2
        lines.append(
            f'<text class="title" text-anchor="middle" transform="translate(13 {middle}) rotate(-90)">'
            f"{escape(titles[1])}</text>"
        )
        return "".join(lines)


def iou_histogram(runs: dict[str, list[float]]) -> Chart:
    """How many masks have which IoU; `runs` are IoUs by the evaluation's name."""
    edges = np.linspace(0, 1, IOU_BINS + 1)
    counts = {name: np.histogram(ious, edges)[0] for name, ious in runs.items()}
    shares = {name: count / max(count.sum(), 1) for name, count in counts.items()}
    top, step = _round_up(max(float(share.max()) for share in shares.values()))
    axes = Axes(high=(1.0, top))
    ticks = {step * i: f"{100 * step * i:g} %" for i in range(round(top / step) + 1)}
    drawn = [axes.frame(("IoU", "share of masks"), _unit_ticks(), ticks)]
    for series, (name, share) in enumerate(shares.items()):
        for i, (low, high) in enumerate(pairwise(edges)):
            wide = (high - low) * 0.86 / len(runs)
            start = low + (high - low) * 0.07 + series * wide
            title = f"{_of(name, runs)}IoU {low:.2f} to {high:.2f}: {counts[name][i]} masks"
            drawn.append(_bar(axes, start, start + wide, float(share[i]), series, title))
    header = ["IoU", *(f"masks{_by(name, runs)}" for name in runs)]
    rows = [[f"{low:.2f} – {high:.2f}", *(f"{counts[name][i]}" for name in runs)]
            for i, (low, high) in enumerate(pairwise(edges))]  # fmt: skip
    return Chart(_svg(drawn, "Histogram of IoU"), "Distribution of IoU over masks.", header, rows)


def size_chart(runs: dict[str, list[Point]]) -> Chart | None:
    """gIoU against target size on a logarithmic axis, with 95 % intervals; None where no target has an area.

    Args:
        runs: (share of the frame, IoU) of each target, by the evaluation's name.
    """
    shares = [share for points in runs.values() for share, _ in points if share > 0]
    if not shares:
        return None
    # half decades: 0.01 %, 0.032 %, 0.1 %, …
    first = math.floor(2 * math.log10(min(shares)) + 1e-9)
    last = max(math.ceil(2 * math.log10(max(shares)) - 1e-9), first + 1)
    axes = Axes((first / 2, 0.0), (last / 2, 1.0))
    decades = {i / 2: _percent(10 ** (i / 2)) for i in range(first, last + 1) if i % 2 == 0 or last - first < 5}
    drawn = [axes.frame(("target's share of the frame", "gIoU"), decades, _unit_ticks())]
    table: dict[int, list[str]] = {i: [] for i in range(first, last)}
    for series, (name, points) in enumerate(runs.items()):
        line = []
        for i in range(first, last):
            ious = [iou for share, iou in points if share > 0 and _bin(share, first, last) == i]
            if not ious:
                table[i].append("–")
                continue
            mean, half = float(np.mean(ious)), Z95 * float(np.std(ious, ddof=1)) / len(ious) ** 0.5 if ious[1:] else 0.0
            x = axes.x((i + 0.5) / 2) + (series - (len(runs) - 1) / 2) * 8
            low, high = max(mean - half, 0.0), min(mean + half, 1.0)
            span = f"{_percent(10 ** (i / 2))} to {_percent(10 ** ((i + 1) / 2))}"
            title = f"{_of(name, runs)}{span}: gIoU {mean:.3f} ± {half:.3f}, {len(ious)} masks"
            drawn.append(f'<path class="whisker s{series}" d="M{x} {axes.y(low)}V{axes.y(high)}"/>')
            drawn.append(_dot(x, axes.y(mean), series, title))
            if series == 0:
                drawn.append(_text(axes.x((i + 0.5) / 2), axes.y(1) - 6, f"{len(ious)}", "middle", "count"))
            line.append(f"{x} {axes.y(mean)}")
            table[i].append(f"{mean:.3f} ± {half:.3f} ({len(ious)})")
        drawn.append(f'<path class="line s{series}" d="M{"L".join(line)}"/>')
    rows = [[f"{_percent(10 ** (i / 2))} – {_percent(10 ** ((i + 1) / 2))}", *cells] for i, cells in table.items()]
    counted = f" of {escape(next(iter(runs)))}" if len(runs) > 1 else ""
    caption = f"gIoU by target size, with 95&nbsp;% intervals of the mean; at the top the number of masks{counted}."
    header = ["share of the frame", *(f"gIoU{_by(name, runs)} (masks)" for name in runs)]
    return Chart(_svg(drawn, "gIoU against target size"), caption, header, rows)


def reliability(runs: dict[str, dict[str, Any]]) -> Chart | None:
    """IoU against confidence; `runs` are metrics.json's `calibration` by the evaluation's name."""
    if not runs:
        return None
    axes = Axes()
    drawn = [axes.frame(("confidence", "mean IoU"), _unit_ticks(), _unit_ticks())]
    drawn.append(f'<path class="diagonal" d="M{axes.x(0)} {axes.y(0)}L{axes.x(1)} {axes.y(1)}"/>')
    most = max((one["count"] for run in runs.values() for one in run["bins"]), default=1) or 1
    rows = []
    for series, (name, run) in enumerate(runs.items()):
        filled = [one for one in run["bins"] if one["count"]]
        places = [(axes.x(one["confidence"]), axes.y(one["iou"])) for one in filled]
        drawn.append(f'<path class="line s{series}" d="M{"L".join(f"{x} {y}" for x, y in places)}"/>' if places else "")
        for one, (x, y) in zip(filled, places, strict=True):
            span = f"{one['low']:.2f} to {one['high']:.2f}"
            title = f"{_of(name, runs)}confidence {span}: mean {one['confidence']:.3f}, IoU {one['iou']:.3f}"
            radius = 3 + 6 * math.sqrt(one["count"] / most)
            drawn.append(_dot(x, y, series, f"{title}, {one['count']} masks", radius))
            rows.append([*([name] if len(runs) > 1 else []), span.replace("to", "–"), f"{one['count']}",
                         f"{one['confidence']:.3f}", f"{one['iou']:.3f}"])  # fmt: skip
    errors = "; ".join(f"{_of(escape(name), runs)}ECE {run['ece']:.3f}" for name, run in runs.items())
    caption = f"Confidence against IoU; larger dots are more masks, the dashed line is perfect calibration. {errors}."
    header = [*(["run"] if len(runs) > 1 else []), "confidence", "masks", "mean confidence", "mean IoU"]
    return Chart(_svg(drawn, "Reliability diagram"), caption, header, rows)


def share_bar(share: float, series: int) -> str:
    """A bar of a share, for a cell of a table."""
    return (
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="s{series}" width="{100 * share:.1f}" height="10"/></svg>'
    )


def _svg(parts: list[str], title: str) -> str:
    inside = "".join(parts)
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{inside}</svg>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'


def _bar(axes: Axes, low: float, high: float, value: float, series: int, title: str) -> str:
    x, y = axes.x(low), axes.y(value)
    size = f'width="{axes.x(high) - x:.1f}" height="{axes.y(0) - y:.1f}"'
    return f'<rect class="s{series}" x="{x}" y="{y}" {size}><title>{escape(title)}</title></rect>'


def _dot(x: float, y: float, series: int, title: str, radius: float = 4) -> str:
    return f'<circle class="s{series}" cx="{x}" cy="{y}" r="{radius:.1f}"><title>{escape(title)}</title></circle>'


def _unit_ticks() -> dict[float, str]:
    return {i / 5: f"{i / 5:g}" for i in range(6)}


def _round_up(share: float) -> tuple[float, float]:
    """The end of an axis that reaches `share`, and the step of its ticks."""
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2) if share <= 5 * step)
    return max(math.ceil(share / step - 1e-9), 1) * step, step


def _bin(share: float, first: int, last: int) -> int:
    return min(max(math.floor(2 * math.log10(share) + 1e-9), first), last - 1)


def _percent(share: float) -> str:
    value = 100 * share
    return f"{value:.2g} %" if value < 10 else f"{value:.0f} %"


def _of(name: str, runs: dict[str, Any]) -> str:
    return f"{name}: " if len(runs) > 1 else ""


def _by(name: str, runs: dict[str, Any]) -> str:
    return f", {name}" if len(runs) > 1 else ""
