"""What the head of the page says: what was evaluated and how, what to beware of, and how two evaluations differ."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from utils.datasets.base import CLEAN
from utils.evaluation.compare import DATA, PROTOCOL
from utils.evaluation.protocols import FORCED, GENERATE, GIVEN_REASONING, NO_REASONING, OWN_REASONING
from utils.evaluation.report.runs import Run, object_of
from utils.evaluation.report.words import decoding_words
from utils.evaluation.scoring import MISSING, QUESTION

KINDS_OF_PROTOCOL = {FORCED: "teacher-forced", GENERATE: "generated answers"}
REASONING = {
    NO_REASONING: "no reasoning",
    OWN_REASONING: "its own reasoning",
    GIVEN_REASONING: "annotated reasoning given",
}
GIVEN_AWAY = "uses the data set’s answers as input"
UNITS = {QUESTION: "all targets of a question as one", "target": "each target by itself"}
RULES = ("data", "protocol", "checkpoint", "config", "code", "versions", "hardware")
ALWAYS = (*DATA, "kind")  # told even where one of two evaluations does not name it
TITLES = {"kind": "protocol", "sha256": "sha256 of the data"}
HASH_LETTERS = 12


def facts(run: Run) -> list[tuple[str, str]]:
    """What was evaluated and how: titles, and values in HTML, "" for what the files do not name."""
    data, rules = object_of(run.metrics, "data"), object_of(run.metrics, "protocol")
    return [
        ("folder", _code(str(run.folder))),
        ("data", escape(_data(data, rules))),
        ("sha256 of the data", _hash(data.get("sha256"))),
        ("protocol", _protocol(rules)),
        ("decoding", escape(decoding_words(rules.get("decoding")))),
        ("scoring", escape(_scoring(rules))),
        ("forward passes", escape(_passes(rules))),
        ("checkpoint", _checkpoint(object_of(run.metrics, "checkpoint"))),
        ("code", _joined([_code(str(run.metrics.get("code") or "")), escape(_versions(run.metrics))])),
        ("hardware", escape(_hardware(object_of(run.metrics, "hardware")))),
    ]


def warnings(run: Run) -> list[str]:
    """What a reader of its numbers must know, in words."""
    data, rules = object_of(run.metrics, "data"), object_of(run.metrics, "protocol")
    answers, skipped, unasked = object_of(run.metrics, "answers"), data.get("skipped") or [], data.get("unasked") or []
    said = []
    if rules.get("uses_ground_truth_text"):
        said.append(f"This evaluation {GIVEN_AWAY}: the model read the annotated reasoning before it marked anything.")
    if rules.get("neutral_fusion"):
        said.append("Neutral fusion: CLIP alone reaches the language model, so this is not the published model.")
    if rules.get("metric", CLEAN) != CLEAN:
        said.append(f"Scored by the rules {rules['metric']!r}. {rules.get('note') or ''}".strip())
    if rules.get("limit"):
        said.append(f"Only the first {rules['limit']:,} records were evaluated.")
    if skipped:
        said.append(f"{len(skipped):,} bad records of the data set were left out.")
    if unasked:
        said.append(f"{len(unasked):,} questions were left out, which the model cannot be asked.")
    if answers.get(MISSING):
        said.append(f"{answers[MISSING]:,} records have no prediction and are scored as empty.")
    for control, found in object_of(run.metrics, "controls").items():
        if isinstance(found, dict) and found.get(MISSING):
            said.append(f"Under {control}, {found[MISSING]:,} records have no prediction and are scored as empty.")
    return said


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>" if text else ""


def _hash(value: Any) -> str:
    return f'<code title="{escape(str(value))}">{escape(str(value)[:HASH_LETTERS])}</code>' if value else ""


def _joined(parts: Iterable[Any]) -> str:
    return ", ".join(str(part) for part in parts if part)


def _data(data: Mapping[str, Any], rules: Mapping[str, Any]) -> str:
    if not data:
        return ""
    counted = [f"{data[name]:,} {name}" for name in ("records", "pictures") if isinstance(data.get(name), int)]
    if rules.get("limit"):
        counted.append(f"the first {rules['limit']:,} only")
    counted += [f"{len(data[name]):,} {name}" for name in ("skipped", "unasked") if data.get(name)]
    return _joined([data.get("dataset"), f"split {data.get('split', '?')}", *counted])


def _protocol(rules: Mapping[str, Any]) -> str:
    kind, reasoning = rules.get("kind"), rules.get("reasoning")
    words = escape(_joined([KINDS_OF_PROTOCOL.get(str(kind), kind), REASONING.get(str(reasoning), reasoning)]))
    words = words or "not named by the predictions"
    mark = f"<strong>{GIVEN_AWAY}</strong>" if rules.get("uses_ground_truth_text") else ""
    return _joined([words, mark])


def _scoring(rules: Mapping[str, Any]) -> str:
    unit, matching = rules.get("unit"), rules.get("matching")
    named = (("matched by", matching), ("polygons:", rules.get("polygons")), ("orientation:", rules.get("orientation")))
    return _joined([UNITS.get(str(unit), unit), *(f"{title} {value}" for title, value in named if value)])


def _passes(rules: Mapping[str, Any]) -> str:
    size, threads, attention = (rules.get(name) for name in ("pass_size", "threads", "attention"))
    threaded = f"{threads} thread{'s' if threads != 1 else ''}" if threads else ""
    numbers = (rules.get(name) for name in ("dtype", "load_in"))
    return _joined([f"{size} records" if size else "", *numbers, attention and f"{attention} attention", threaded])


def _versions(metrics: Mapping[str, Any]) -> str:
    return _joined(f"{name} {version}" for name, version in object_of(metrics, "versions").items())


def _hardware(hardware: Mapping[str, Any]) -> str:
    device, name = str(hardware.get("device") or ""), hardware.get("name")
    return f"{name} ({device.upper()})" if name and device else str(name or device)


def _checkpoint(hashes: Mapping[str, Any]) -> str:
    lines = [f"{_hash(value)} {escape(str(name))}" for name, value in hashes.items()]
    if len(lines) < 3:
        return "<br>".join(lines)
    rest = "<br>".join(lines[1:])
    return f"{lines[0]}<details><summary>and {len(lines) - 1} other files</summary>{rest}</details>"


def rules_text(run: Run) -> str:
    """All that the scores depend on, as JSON in HTML."""
    named = {name: run.metrics[name] for name in RULES if name in run.metrics}
    return f"<pre>{escape(json.dumps(named, indent=1, ensure_ascii=False))}</pre>"


def differences(runs: list[Run]) -> list[str]:
    """What makes two evaluations hard to compare, in words; someone else's predictions do not name all of it."""
    if len(runs) < 2:
        return []
    notes = []
    for part, names in (("data", DATA), ("protocol", PROTOCOL)):
        one, other = (object_of(run.metrics, part) for run in runs)
        notes += [
            f"{TITLES.get(name, name)}: {_short(name, one)} in A, {_short(name, other)} in B"
            for name in names
            if one.get(name) != other.get(name) and (name in ALWAYS or name in one and name in other)
        ]
    keys = [{(pair.id, pair.target) for pair in run.pairs if pair.target is not None} for run in runs]
    if lone := len(keys[0] ^ keys[1]):
        notes.append(f"targets: {lone:,} were scored in one of the two only")
    return notes


def _short(name: str, part: Mapping[str, Any]) -> str:
    """A value in a few words."""
    if name not in part:
        return "not known"
    value = part[name]
    if name == "decoding":
        return decoding_words(value) or "none"
    if name == "sha256":
        return str(value)[:HASH_LETTERS]
    titles = {"kind": KINDS_OF_PROTOCOL, "reasoning": REASONING}.get(name, {})
    return str(titles.get(str(value), "none" if value is None else value))[:60]
