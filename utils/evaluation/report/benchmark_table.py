"""The table of several benchmarks: what was measured beside what has been published, as text and as a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from string import Template
from typing import Any

from utils.evaluation.metrics import METRICS, metric_names
from utils.evaluation.report.tables import heading

GROUNDED_TITLES = {"ap50": "AP50", "miou": "mIoU", "recall": "recall", "meteor": "METEOR", "cider": "CIDEr"}
MEASURED, BY_OFFICIAL_RULES = "this model", "this model, official rules"
LABEL, VALUE = 44, 9  # widths of columns
PAGE = Template(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Benchmarks</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24; }
table { border-collapse: collapse; width: 100%; margin-bottom: 2rem; }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid #e3e6ea; }
th:first-child, td:first-child { text-align: left; }
tr.measured { font-weight: 600; background: #f2f7ff; }
.source, .told { color: #5b6470; font-size: .85em; font-weight: 400; }
</style></head><body>
<h1>Benchmarks</h1>
<p class="told">In percent. Rows of this model were measured by this run; all others are as published by their authors
and named with their source; nothing of theirs was run again.</p>
$tables
$missing
</body></html>
"""
)


@dataclass(frozen=True)
class Evaluated:
    """A split that was evaluated.

    Args:
        name: of the benchmark.
        title: in tables.
        split: that was evaluated.
        metrics: names of columns; () for those of the evaluation.
        found: the content of its metrics.json.
        published: numbers of others, in percent.
    """

    name: str
    title: str
    split: str
    metrics: tuple[str, ...]
    found: Mapping[str, Any]
    published: Sequence[Mapping[str, Any]]

    @property
    def columns(self) -> list[str]:
        """Names of the metrics that the table shows."""
        own = metric_names(self.found["overall"])
        return list(self.metrics or own)

    def rows(self) -> Iterator[tuple[str, dict[str, float | None], str]]:
        """Label, values in percent and source of each row; no source where the model was measured."""
        told = {**self.found["overall"], **self.found.get("grounded", {}).get("all", {}), **self._text_scores()}
        yield MEASURED, {name: _percent(told.get(name)) for name in self.columns}, ""
        official = dict(self.found.get("official", {}))
        if self.found.get("grounded", {}).get("official_recall") is not None:
            official = {**told, "recall": self.found["grounded"]["official_recall"]}
        if any(official.get(name) != told.get(name) for name in self.columns if name in official):
            yield BY_OFFICIAL_RULES, {name: _percent(official.get(name)) for name in self.columns}, ""
        for one in self.published:
            if one.get("split") == self.split:
                label = f"{one['model']} ({one['group']})" if "group" in one else str(one["model"])
                yield label, {name: one.get(name) for name in self.columns}, str(one["source"])

    def _text_scores(self) -> dict[str, Any]:
        grounded = self.found.get("grounded", {})
        return {name: grounded[name] for name in ("meteor", "cider") if name in grounded}

    def as_json(self) -> dict[str, Any]:
        """For benchmarks.json: measured values as shares, published ones in percent as printed."""
        return {
            "benchmark": self.name,
            "split": self.split,
            "overall": self.found["overall"],
            "official": self.found.get("official"),
            "grounded": self.found.get("grounded"),
            "data": self.found["data"],
            "published": [dict(one) for one in self.published if one.get("split") == self.split],
        }


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def column_title(name: str) -> str:
    """What a column is called."""
    return METRICS[name].title if name in METRICS else GROUNDED_TITLES[name]


def benchmark_table(done: Sequence[Evaluated]) -> str:
    """All benchmarks as aligned text, in percent."""
    lines = ["in percent; rows of this model are measured, others as published (sources: benchmarks.html)"]
    for one in done:
        titles = "".join(f"{column_title(name):>{VALUE}}" for name in one.columns)
        lines.append(f"{f'{one.title} {one.split}':<{LABEL}}{titles}")
        for label, values, _ in one.rows():
            shown = ("–" if values[name] is None else f"{values[name]:.1f}" for name in one.columns)
            lines.append(f"  {label:<{LABEL - 2}}" + "".join(f"{value:>{VALUE}}" for value in shown))
    return "\n".join(lines)


def benchmark_page(done: Sequence[Evaluated], missing: Sequence[str]) -> str:
    """The same as a page that leads to the report of each split."""
    tables = "\n".join(_html_table(one) for one in done)
    listed = "".join(f"<li>{escape(line)}</li>" for line in missing)
    return PAGE.substitute(tables=tables, missing=f"<h2>Skipped</h2><ul>{listed}</ul>" if listed else "")


def _html_table(one: Evaluated) -> str:
    head = "".join(f"<th>{escape(column_title(name))}</th>" for name in one.columns)
    rows = []
    for label, values, source in one.rows():
        cells = "".join(f"<td>{'–' if values[name] is None else f'{values[name]:.1f}'}</td>" for name in one.columns)
        named = f'{escape(label)} <span class="source">{escape(source)}</span>' if source else escape(label)
        kind = "published" if source else "measured"
        rows.append(f'<tr class="{kind}"><td>{named}</td>{cells}</tr>')
    link = f'<a href="{escape(one.name)}/{escape(one.split)}/report.html">report</a>'
    told = escape(heading(one.found)).replace("\n", "<br>")
    title = f"<h2>{escape(one.title)} {escape(one.split)}</h2>"
    return f'{title}<p class="told">{told} – {link}</p><table><tr><th></th>{head}</tr>{"".join(rows)}</table>'
