"""utils.evaluation.report.charts: what is drawn lies where its numbers say."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from utils.evaluation.report.charts import Axes, iou_histogram, reliability, size_chart

HOSTILE = "<b>&run"


def drawn(svg: str, tag: str) -> list[ElementTree.Element]:
    return [one for one in ElementTree.fromstring(svg).iter() if one.tag == tag]


def test_the_histogram_counts_every_mask_once_and_its_bars_are_proportional() -> None:
    chart = iou_histogram({"a": [0.0, 0.0, 0.01, 0.5, 1.0]})
    bars = drawn(chart.svg, "rect")
    heights = [float(bar.get("height", 0)) for bar in bars]
    assert len(bars) == 20 and sum(int(row[1]) for row in chart.rows) == 5
    assert heights[0] == pytest.approx(3 * heights[10], abs=0.3) and heights[19] == heights[10] > 0 == heights[5]
    assert chart.rows[0] == ["0.00 – 0.05", "3"] and chart.rows[19][1] == "1"


def test_two_runs_stand_side_by_side_and_names_are_escaped() -> None:
    chart = iou_histogram({HOSTILE: [0.1], "b": [0.1]})
    bars = [bar for bar in drawn(chart.svg, "rect") if float(bar.get("height", 0))]
    left, right = (float(bar.get("x", 0)) for bar in bars)
    assert left + float(bars[0].get("width", 0)) == pytest.approx(right, abs=0.2)
    assert HOSTILE not in chart.svg and chart.header[1] == f"masks, {HOSTILE}"


def test_sizes_are_binned_by_half_decades() -> None:
    chart = size_chart({"a": [(0.002, 0.2), (0.0021, 0.4), (0.05, 0.9), (0.0, 1.0)]})
    assert chart is not None
    dots = drawn(chart.svg, "circle")
    axes = Axes((-3.0, 0.0), (-1.0, 1.0))
    places = [(float(dot.get("cx", 0)), float(dot.get("cy", 0))) for dot in dots]
    assert places == [(axes.x(-2.75), axes.y(0.3)), (axes.x(-1.25), axes.y(0.9))]
    assert [row[1] for row in chart.rows] == ["0.300 ± 0.196 (2)", "–", "–", "0.900 ± 0.000 (1)"]
    assert chart.rows[0][0] == "0.1 % – 0.32 %"
    assert size_chart({"a": [(0.0, 1.0)]}) is None


@pytest.mark.parametrize("share", [1.0, 0.1, 0.001, 1e-6])
def test_a_share_at_a_bin_s_edge_is_drawn(share: float) -> None:
    chart = size_chart({"a": [(share, 0.5)]})
    assert chart is not None and len(drawn(chart.svg, "circle")) == 1
    assert all(0 <= float(x) <= 380 for x in re.findall(r'cx="([^"]+)"', chart.svg))


def test_the_reliability_diagram_has_the_bins_that_hold_masks() -> None:
    bins = [
        {"low": 0.7, "high": 0.8, "count": 4, "confidence": 0.75, "iou": 0.5},
        {"low": 0.8, "high": 0.9, "count": 0, "confidence": 0.0, "iou": 0.0},
        {"low": 0.9, "high": 1.0, "count": 16, "confidence": 0.95, "iou": 0.9},
    ]
    chart = reliability({"a": {"ece": 0.0625, "bins": bins}})
    assert chart is not None and "ECE 0.062" in chart.caption
    dots = drawn(chart.svg, "circle")
    places = [(float(dot.get("cx", 0)), float(dot.get("cy", 0))) for dot in dots]
    assert places == [(Axes().x(0.75), Axes().y(0.5)), (Axes().x(0.95), Axes().y(0.9))]
    assert float(dots[0].get("r", 0)) < float(dots[1].get("r", 0)) and len(chart.rows) == 2
    assert reliability({}) is None
