"""Scores as aligned text."""

from __future__ import annotations

from typing import Any

from model.answering import OK
from utils.datasets.base import CLEAN, DatasetSpec
from utils.evaluation.metrics import METRICS, metric_names
from utils.evaluation.report.words import ANSWER_TITLES, BREAKDOWN_TITLES, SHORT_CONTROL_TITLES, decoding_words
from utils.evaluation.scoring import MISSING, STATUSES

LABEL, COUNT, VALUE, INTERVAL, CONTROL = 28, 7, 9, 16, 10  # widths of columns


def heading(metrics: dict[str, Any]) -> str:
    """What was evaluated and how, and what was left out: lines above the table."""
    protocol, answers = metrics.get("protocol") or {}, metrics["answers"]
    lines = ["; ".join(_left_out(metrics))]
    if "kind" in protocol:  # else somebody else's predictions, which do not say how they were made
        lines.append(protocol_line(protocol))
    wrong = [name for name in STATUSES if name not in (OK, MISSING)]
    told = [f"{answers[name]} {ANSWER_TITLES[name]}" for name in wrong if answers[name]]
    if answers["malformed"] is not None:
        told.append(f"{answers['malformed']} not of the form <think>…</think><answer>…</answer>[SEG]…")
    if told:
        lines.append(f"answers: {', '.join(told)}, of {answers['records']}")
    if protocol.get("metric", CLEAN) != CLEAN:
        note = f": {protocol['note']}" if protocol.get("note") else ""
        lines.append(f"metric {protocol['metric']}{note}")
    return "\n".join(lines)


def _left_out(metrics: dict[str, Any]) -> list[str]:
    """What was evaluated, and what of it is not there, in parts of a line."""
    data, protocol, missing = metrics["data"], metrics.get("protocol") or {}, metrics["answers"][MISSING]
    parts = [f"{data['dataset']} {data['split']}: {data['records']} records about {data['pictures']} pictures"]
    if protocol.get("limit"):
        parts.append(f"the first {protocol['limit']} only")
    if data["skipped"]:
        parts.append(f"{len(data['skipped'])} bad records skipped")
    if data.get("unasked"):
        parts.append(f"{len(data['unasked'])} questions left out, which the model cannot be asked")
    if missing:
        parts.append(f"{missing} records without a prediction, scored as empty")
    for control, found in metrics.get("controls", {}).items():
        if found.get(MISSING):
            parts.append(f"{found[MISSING]} records without a prediction under {control}, scored as empty")
    return parts


def protocol_line(protocol: dict[str, Any]) -> str:
    """Kind, reasoning and decoding in a line."""
    words = f"{protocol['kind']}, reasoning {protocol.get('reasoning', 'unknown')}"
    if protocol.get("uses_ground_truth_text"):
        words += " (USES THE DATA SET'S ANSWERS AS INPUT)"
    decoding = decoding_words(protocol.get("decoding"))
    return f"{words}; {decoding}" if decoding else words


def table(metrics: dict[str, Any], spec: DatasetSpec) -> str:
    """Scores as aligned text: in each row the count, the data set's metrics with 95 % intervals where there are some,
    and the first metric under each control."""
    controls = metrics.get("controls", {})
    titles, names = BREAKDOWN_TITLES | spec.group_titles, metric_names(metrics["overall"])
    lines = [_title_row(metrics["overall"], names, controls)]
    lines.append(_row("overall", metrics["overall"], [one["overall"] for one in controls.values()], names))
    for name, title in titles.items():
        groups = metrics.get(f"by_{name}", {})
        if groups:
            lines.append(title)
        for value, summary in groups.items():
            under = [one.get(f"by_{name}", {}).get(value) for one in controls.values()]
            lines.append(_row(f"  {value}", summary, under, names))
    official = metrics.get("official")
    if official:
        named = [name for name in metric_names(official) if official[name] is not None]
        told = (f"{METRICS[name].title} {official[name]:.4f}" for name in named)
        lines.append(f"by the official rules: {', '.join(told)}")
    return "\n".join(line.rstrip() for line in lines)


def _title_row(overall: dict[str, Any], names: list[str], controls: dict[str, Any]) -> str:
    line = f"{'':<{LABEL}}{'count':>{COUNT}}"
    for name in names:
        line += f"{METRICS[name].title:>{VALUE}}"
        if f"{name}_interval" in overall:
            line += f"{'95 %':^{INTERVAL}}"
    return line + "".join(f"{SHORT_CONTROL_TITLES[control]:>{CONTROL}}" for control in controls)


def _row(label: str, summary: dict[str, Any], under: list[dict[str, Any] | None], names: list[str]) -> str:
    with_intervals = any(name.endswith("_interval") for name in summary)
    line = f"{label:<{LABEL}}{summary['count']:>{COUNT}}"
    for name in names:
        line += f"{summary[name]:>{VALUE}.4f}" if summary[name] is not None else f"{'–':>{VALUE}}"
        if with_intervals:
            interval = summary.get(f"{name}_interval")
            line += f"{'[{:.3f}, {:.3f}]'.format(*interval) if interval else '':^{INTERVAL}}"
    for one in under:
        line += f"{one[names[0]]:>{CONTROL}.4f}" if one else " " * CONTROL
    return line
