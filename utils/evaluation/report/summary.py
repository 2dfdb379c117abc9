"""The page's tables in HTML: scores with intervals and controls, and what became of masks and answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from utils.datasets.base import DatasetSpec
from utils.evaluation.compare import compare, evaluation
from utils.evaluation.metrics import METRICS, TARGET_COUNT, TARGET_SIZE, metric_names
from utils.evaluation.report.charts import share_bar
from utils.evaluation.report.gallery import KINDS, kind_of
from utils.evaluation.report.runs import SIDE_LETTERS, Run, object_of, side
from utils.evaluation.report.words import ANSWER_TITLES, BREAKDOWN_TITLES, CONTROL_TITLES
from utils.evaluation.scores_file import SCORES_FILE
from utils.evaluation.scoring import STATUSES

# As `utils.evaluation.compare` calls them.
COMPARED_GROUPS = {"": "overall", TARGET_SIZE: "target size", TARGET_COUNT: "targets"}
LEAST_P = 0.001  # shown as a number
Comparison = dict[str, dict[str, dict[str, Any]]]


def comparison(runs: list[Run]) -> Comparison:
    """`utils.evaluation.compare.compare` of two evaluations of the same data; {} otherwise."""
    hashes = {object_of(run.metrics, "data").get("sha256") for run in runs}
    told = all(object_of(run.metrics, "protocol") for run in runs)
    if len(runs) < 2 or len(hashes) > 1 or None in hashes or not told:
        return {}
    return compare(*(evaluation(run.folder / SCORES_FILE, run.metrics, run.pairs) for run in runs))


def score_table(runs: list[Run], spec: DatasetSpec, paired: Comparison | None = None) -> str:
    """Metrics with intervals, overall and by group; of two evaluations side by side with their differences.

    Args:
        runs: one or two.
        spec: of their data set.
        paired: from `comparison`; without it differences have neither interval nor p-value.
    """
    metrics = metric_names(runs[0].metrics["overall"])
    two, of_difference = len(runs) > 1, 2 if paired else 1
    top = ['<th scope="col" rowspan="2"></th>', '<th scope="col" rowspan="2" class="n">masks</th>']
    second = []
    for name in metrics:
        title = escape(METRICS[name].title)
        if two:
            top.append(f'<th scope="colgroup" colspan="{2 + of_difference}" class="group">{title}</th>')
            titles = (*SIDE_LETTERS, "B − A", "p")[: 2 + of_difference]
            second += [f'<th scope="col" class="n">{one}</th>' for one in titles]
        else:
            top.append(f'<th scope="col" rowspan="2" class="n">{title}<span class="interval"></span></th>')
    controls = [] if two else _controls(runs[0])
    for control in controls:
        title = escape(CONTROL_TITLES.get(control, control))
        top.append(f'<th scope="colgroup" colspan="{len(metrics)}" class="group">{title}</th>')
        second += [f'<th scope="col" class="n">{escape(METRICS[name].title)}</th>' for name in metrics]
    columns = 2 + len(metrics) * (2 + of_difference if two else 1) + len(controls) * len(metrics)
    rows = []
    for title, group, value in _rows([run.metrics for run in runs], spec):
        if value is None and group:
            rows.append(_title_row(title, columns))
            continue
        found = [_summary(run.metrics, group, value) for run in runs]
        cells = [_count(found)]
        for name in metrics:
            cells += [_score(one, name) for one in found]
            cells += [_difference(found, name, paired and _paired(paired, group, value, name))] if two else []
        for control in controls:
            of = _summary(runs[0].metrics["controls"][control], group, value)
            cells += [_score(of, name, interval=False) for name in metrics]
        rows.append(_row(title, cells, bool(group)))
    return _table(top, second, rows, "Scores with 95 % intervals", "stacked" if two else "")


def _paired(paired: Comparison, group: str, value: str | None, name: str) -> dict[str, Any]:
    """What `comparison` has for a row and metric; {} for a row that it lacks."""
    row = paired.get(COMPARED_GROUPS.get(group, group), {}).get(value or "all", {})
    return row.get(name, {})


def control_table(runs: list[Run], spec: DatasetSpec) -> str:
    """The first metric under the controls of two evaluations; "" where there are none, or one evaluation."""
    controls = list(dict.fromkeys(control for run in runs for control in _controls(run)))
    if len(runs) < 2 or not controls:
        return ""
    name = metric_names(runs[0].metrics["overall"])[0]
    top, second = ['<th scope="col" rowspan="2"></th>'], []
    for control in controls:
        title = escape(CONTROL_TITLES.get(control, control))
        top.append(f'<th scope="colgroup" colspan="2" class="group">{title}</th>')
        second += [f'<th scope="col" class="n">{letter}</th>' for letter in SIDE_LETTERS]
    rows = []
    for title, group, value in _rows([run.metrics for run in runs], spec):
        if value is None and group:
            rows.append(_title_row(title, 1 + 2 * len(controls)))
            continue
        cells = []
        for control in controls:
            for run in runs:
                of = object_of(run.metrics, "controls").get(control)
                cells.append(_score(_summary(of, group, value) if of else None, name, interval=False))
        rows.append(_row(title, cells, bool(group)))
    return _table(top, second, rows, f"{METRICS[name].title} under controls")


def _controls(run: Run) -> list[str]:
    """The run's controls, in the order of CONTROL_TITLES, then those unknown here."""
    found = object_of(run.metrics, "controls")
    known = [name for name in CONTROL_TITLES if name in found]
    return known + [name for name in found if name not in CONTROL_TITLES]


def _rows(metrics: list[dict], spec: DatasetSpec) -> Iterable[tuple[str, str, str | None]]:
    """(title, group, value) of each row of scores: overall, then a title row (value None) and values of each group."""
    yield "overall", "", None
    for name, title in (BREAKDOWN_TITLES | spec.group_titles).items():
        values = list(dict.fromkeys(value for one in metrics for value in object_of(one, f"by_{name}")))
        if values:
            yield title, name, None
        yield from ((value, name, value) for value in values)


def _summary(metrics: Mapping[str, Any], group: str, value: str | None) -> dict[str, Any] | None:
    return metrics.get(f"by_{group}", {}).get(value) if group else metrics.get("overall")


def _count(found: list[dict[str, Any] | None]) -> str:
    counts = list(dict.fromkeys(f"{one['count']:,}" for one in found if one))
    return f'<td class="n">{" / ".join(counts)}</td>'


def _score(one: dict[str, Any] | None, name: str, interval: bool = True) -> str:
    if one is None or not isinstance(one.get(name), (int, float)):
        return '<td class="n">–</td>'
    span = one.get(f"{name}_interval") if interval else None
    small = f'<span class="interval">{f"[{span[0]:.3f}, {span[1]:.3f}]" if span else ""}</span>' if interval else ""
    return f'<td class="n">{one[name]:.3f}{small}</td>'


def _difference(found: list[dict[str, Any] | None], name: str, paired: dict[str, Any] | None) -> str:
    """The cells of B - A; `paired` is from `_paired`, None where nothing has been compared."""
    empty = '<td class="n">–</td>'
    if any(one is None or not isinstance(one.get(name), (int, float)) for one in found):
        return empty if paired is None else empty * 2
    step = found[1][name] - found[0][name]
    kind = "up" if round(step, 3) > 0 else "down" if round(step, 3) < 0 else "same"
    if paired is None:
        return f'<td class="n difference {kind}">{signed(step)}</td>'
    # Of other masks than those that the row's scores are of, nothing can be said about their difference.
    fits = math.isclose(paired.get("difference", math.inf), step, abs_tol=1e-6)
    span, p = (paired["interval"], paired["p"]) if fits else (None, None)
    small = f"[{signed(span[0])}, {signed(span[1])}]" if span else ""
    shown = "–" if p is None else f"&lt; {LEAST_P}" if p < LEAST_P else f"{p:.3f}"
    kind = kind if span and span[0] * span[1] > 0 else "same"  # coloured only where 0 is outside
    value = f'{signed(step)}<span class="interval">{small}</span>'
    return f'<td class="n difference {kind}">{value}</td><td class="n p">{shown}</td>'


def signed(value: float) -> str:
    """A difference with its sign, to three digits; 0 has none."""
    return f"{'+' if value > 0 else '−'}{abs(value):.3f}" if round(value, 3) else "0.000"


def _title_row(title: str, columns: int) -> str:
    return f'<tr class="part"><th scope="colgroup" colspan="{columns}">{escape(title)}</th></tr>'


def _row(title: str, cells: list[str], inside: bool | None) -> str:
    kind = "" if inside is None else ' class="inside"' if inside else ' class="overall"'
    return f'<tr{kind}><th scope="row">{escape(title)}</th>{"".join(cells)}</tr>'


def _table(top: list[str], second: list[str], rows: list[str], label: str, kind: str = "") -> str:
    below = f"<tr>{''.join(second)}</tr>" if second else ""
    head = f"<thead><tr>{''.join(top)}</tr>{below}</thead>"
    return (
        f'<div class="scroll {kind}" tabindex="0" role="region" aria-label="{escape(label)}">'
        f"<table>{head}<tbody>{''.join(rows)}</tbody></table></div>"
    )


def plain_table(header: list[str], rows: list[list[str]], label: str) -> str:
    """A table of text, the first column as the rows' titles; cells are escaped."""
    kinds = ["", *[' class="n"'] * (len(header) - 1)]
    top = [f'<th scope="col"{kind}>{escape(one)}</th>' for kind, one in zip(kinds, header, strict=True)]
    lines = [_row(row[0], [f'<td class="n">{escape(cell)}</td>' for cell in row[1:]], None) for row in rows]
    return _table(top, [], lines, label)


def kind_table(runs: list[Run]) -> str:
    """What became of the masks: counts and shares of each kind, each a link that filters the gallery."""
    counts = [Counter(kind_of(pair) for pair in run.pairs) for run in runs]
    top = ['<th scope="col"></th>']
    for i in range(len(runs)):
        top.append(f'<th scope="col" class="n">{side(runs, i) or "masks"}</th><th scope="col" class="n">share</th>')
        top.append('<th scope="col" class="bars"></th>')
    rows = []
    for kind, title in KINDS.items():
        if not any(count[kind] for count in counts):
            continue
        cells = []
        for i, count in enumerate(counts):
            share = count[kind] / max(count.total(), 1)
            cells.append(f'<td class="n">{count[kind]:,}</td><td class="n">{100 * share:.1f} %</td>')
            cells.append(f'<td class="bars">{share_bar(share, i)}</td>')
        link = f'<a href="#kind={kind}">{escape(title)}</a>'
        rows.append(f'<tr><th scope="row">{link}</th>{"".join(cells)}</tr>')
    return _table(top, [], rows, "What became of the masks")


def answer_table(runs: list[Run]) -> str:
    """How many answers are as asked for; "" where metrics.json does not count them."""
    found = [object_of(run.metrics, "answers") for run in runs]
    if not any(found):
        return ""
    header = ["answers", *(side(runs, i) or "records" for i in range(len(runs)))]
    rows = [["all", *(_number(one.get("records")) for one in found)]]
    for name in (*STATUSES, "malformed"):
        if any(one.get(name) is not None for one in found):
            rows.append([ANSWER_TITLES[name], *(_number(one.get(name)) for one in found)])
    return plain_table(header, rows, "Answers")


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "–"
