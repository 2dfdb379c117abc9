"""The page's tables in HTML: what was evaluated, scores with intervals and controls, and what became of answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from utils.datasets.base import DatasetSpec
from utils.evaluation.metrics import METRICS
from utils.evaluation.report.charts import share_bar
from utils.evaluation.report.gallery import KINDS, kind_of
from utils.evaluation.report.runs import STATUSES, Run

KINDS_OF_PROTOCOL = {"forced": "teacher-forced", "generate": "generated answers"}
REASONING = {"none": "no reasoning", "own": "its own reasoning", "given": "annotated reasoning given"}
CONTROL_TITLES = {
    "shuffled-questions": "questions shuffled",
    "swapped-images": "images swapped",
    "blank-question": "question blank",
}
ANSWER_TITLES = {
    "ok": "as asked for",
    "no_seg": "without [SEG]",
    "broken": "with a broken [SEG] group",
    "wrong_count": "with a wrong number of masks",
    "missing": "missing",
    "malformed": "malformed text",
}
HASH_LETTERS = 12
SIDE_LETTERS = "AB"


def side(runs: list[Run], number: int) -> str:
    """The letter of an evaluation where there are two."""
    return SIDE_LETTERS[number] if len(runs) > 1 else ""


def facts(run: Run) -> list[tuple[str, str]]:
    """What was evaluated and how: titles, and values in HTML, "" for what the files do not name."""
    data, rules = _object(run.metrics, "data"), _object(run.metrics, "protocol")
    hardware = _object(run.metrics, "hardware")
    counted = [f"{data[name]:,} {name}" for name in ("records", "pictures") if isinstance(data.get(name), int)]
    skipped = data.get("skipped") or []
    counted += [f"{len(skipped):,} skipped"] if skipped else []
    return [
        ("folder", _code(str(run.folder))),
        ("data", escape(", ".join([f"{data.get('dataset', '?')}, split {data.get('split', '?')}", *counted]))),
        ("sha256 of the data", _hash(data.get("sha256"))),
        ("protocol", escape(_protocol(rules))),
        ("decoding", escape(_options(rules.get("decoding")))),
        ("records a pass", escape(str(rules.get("pass_size") or ""))),
        ("checkpoint", _checkpoint(_object(run.metrics, "checkpoint"))),
        ("code", _code(str(rules.get("code") or hardware.get("code_version") or hardware.get("code") or ""))),
        ("hardware", escape(_hardware(hardware, rules))),
    ]


def _object(metrics: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = metrics.get(name)
    return value if isinstance(value, dict) else {}


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>" if text else ""


def _hash(value: Any) -> str:
    return f'<code title="{escape(str(value))}">{escape(str(value)[:HASH_LETTERS])}</code>' if value else ""


def _protocol(rules: Mapping[str, Any]) -> str:
    kind, reasoning = rules.get("kind"), rules.get("reasoning")
    parts = [KINDS_OF_PROTOCOL.get(str(kind), kind), REASONING.get(str(reasoning), reasoning)]
    return ", ".join(str(part) for part in parts if part)


def _options(options: Any) -> str:
    if not isinstance(options, dict):
        return str(options) if options else ""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in options.items() if value is not None)


def _checkpoint(hashes: Mapping[str, Any]) -> str:
    lines = [f"{_hash(value)} {escape(str(name))}" for name, value in hashes.items()]
    if len(lines) < 3:
        return "<br>".join(lines)
    rest = "<br>".join(lines[1:])
    return f"{lines[0]}<details><summary>and {len(lines) - 1} other files</summary>{rest}</details>"


def _hardware(hardware: Mapping[str, Any], rules: Mapping[str, Any]) -> str:
    cores = hardware.get("cores")
    parts = [hardware.get("gpu") or hardware.get("cpu"), f"{cores} cores" if cores and not hardware.get("gpu") else ""]
    dtype = hardware.get("dtype") or rules.get("dtype")
    return ", ".join(str(part) for part in (*parts, dtype) if part)


def score_table(runs: list[Run], spec: DatasetSpec) -> str:
    """Metrics with intervals, overall and by group; of two evaluations side by side with their differences."""
    metrics = [name for name in spec.metrics if name in METRICS]
    two = len(runs) > 1
    top = ['<th scope="col" rowspan="2"></th>', '<th scope="col" rowspan="2" class="n">masks</th>']
    second = []
    for name in metrics:
        title = escape(METRICS[name].title)
        if two:
            top.append(f'<th scope="colgroup" colspan="3" class="group">{title}</th>')
            second += [f'<th scope="col" class="n">{letter}</th>' for letter in SIDE_LETTERS]
            second.append('<th scope="col" class="n">B − A</th>')
        else:
            top.append(f'<th scope="col" rowspan="2" class="n">{title}<span class="interval"></span></th>')
    controls = [] if two else _controls(runs[0])
    for control in controls:
        title = escape(CONTROL_TITLES.get(control, control))
        top.append(f'<th scope="colgroup" colspan="{len(metrics)}" class="group">{title}</th>')
        second += [f'<th scope="col" class="n">{escape(METRICS[name].title)}</th>' for name in metrics]
    rows = []
    for title, group, value in _rows([run.metrics for run in runs], spec):
        if value is None and group:
            rows.append(_title_row(title, 2 + len(metrics) * (3 if two else 1) + len(controls) * len(metrics)))
            continue
        found = [_summary(run.metrics, group, value) for run in runs]
        cells = [_count(found)]
        for name in metrics:
            cells += [_score(one, name) for one in found]
            cells += [_difference(found, name)] if two else []
        for control in controls:
            of = _summary(runs[0].metrics["controls"][control], group, value)
            cells += [_score(of, name, interval=False) for name in metrics]
        rows.append(_row(title, cells, bool(group)))
    return _table(top, second if second else [], rows, "Scores with 95 % intervals")


def control_table(runs: list[Run], spec: DatasetSpec) -> str:
    """The first metric under the controls of two evaluations; "" where there are none, or one evaluation."""
    controls = list(dict.fromkeys(control for run in runs for control in _controls(run)))
    if len(runs) < 2 or not controls:
        return ""
    name = spec.metrics[0]
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
                of = _object(run.metrics, "controls").get(control)
                cells.append(_score(_summary(of, group, value) if of else None, name, interval=False))
        rows.append(_row(title, cells, bool(group)))
    return _table(top, second, rows, f"{METRICS[name].title} under controls")


def _controls(run: Run) -> list[str]:
    """The run's controls, in the order of CONTROL_TITLES, then those unknown here."""
    found = _object(run.metrics, "controls")
    known = [name for name in CONTROL_TITLES if name in found]
    return known + [name for name in found if name not in CONTROL_TITLES]


def _rows(metrics: list[dict], spec: DatasetSpec) -> Iterable[tuple[str, str, str | None]]:
    """(title, group, value) of each row of scores: overall, then a title row (value None) and values of each group."""
    yield "overall", "", None
    for name, title in {"target_size": "target size", **spec.group_titles}.items():
        values = list(dict.fromkeys(value for one in metrics for value in _object(one, f"by_{name}")))
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


def _difference(found: list[dict[str, Any] | None], name: str) -> str:
    if any(one is None or not isinstance(one.get(name), (int, float)) for one in found):
        return '<td class="n">–</td>'
    step = found[1][name] - found[0][name]
    kind = "up" if round(step, 3) > 0 else "down" if round(step, 3) < 0 else "same"
    sign = "+" if kind == "up" else "−" if kind == "down" else ""
    return f'<td class="n difference {kind}">{sign}{abs(step):.3f}</td>'


def _title_row(title: str, columns: int) -> str:
    return f'<tr class="part"><th scope="colgroup" colspan="{columns}">{escape(title)}</th></tr>'


def _row(title: str, cells: list[str], inside: bool | None) -> str:
    kind = "" if inside is None else ' class="inside"' if inside else ' class="overall"'
    return f'<tr{kind}><th scope="row">{escape(title)}</th>{"".join(cells)}</tr>'


def _table(top: list[str], second: list[str], rows: list[str], label: str) -> str:
    below = f"<tr>{''.join(second)}</tr>"
    head = f"<thead><tr>{''.join(top)}</tr>{below}</thead>"
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">'
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
    found = [_object(run.metrics, "answers") for run in runs]
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


def rules_text(run: Run) -> str:
    """All that the scores depend on, as JSON in HTML."""
    named = {name: run.metrics[name] for name in ("data", "protocol", "checkpoint", "config", "hardware")
             if name in run.metrics}  # fmt: skip
    return f"<pre>{escape(json.dumps(named, indent=1, ensure_ascii=False))}</pre>"


def differences(runs: list[Run]) -> list[str]:
    """What makes two evaluations hard to compare, in words."""
    if len(runs) < 2:
        return []
    notes = []
    for part, names in (("data", ("dataset", "split", "sha256")), ("protocol", ("kind", "reasoning", "decoding"))):
        one, other = (_object(run.metrics, part) for run in runs)
        notes += [
            f"{name.replace('kind', 'protocol')}: {_short(one.get(name))} in A, {_short(other.get(name))} in B"
            for name in names
            if one.get(name) != other.get(name)
        ]
    keys = [{(pair.id, pair.target) for pair in run.pairs if pair.target is not None} for run in runs]
    if lone := len(keys[0] ^ keys[1]):
        notes.append(f"targets: {lone:,} were scored in one of the two only")
    return notes


def _short(value: Any) -> str:
    return (_options(value) or "none")[:60]
