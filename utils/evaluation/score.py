"""Score a predictions file: `python -m utils.evaluation.score predictions.jsonl --data DIR --split test`.

Reads that file and the data set, nothing else; prints the table and writes metrics.json and scores.jsonl. With
`--template FILE` it writes the questions to answer instead. The format: utils/evaluation/README.md.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from utils.datasets.base import CLEAN, OFFICIAL, DatasetSpec, Sample, ScoringRules
from utils.datasets.registry import dataset_spec, load_dataset
from utils.evaluation.controls import NO_CONTROL
from utils.evaluation.grounded import add_grounded
from utils.evaluation.header import UNITS
from utils.evaluation.metrics import breakdowns
from utils.evaluation.predictions import Record, Records, check_is_there, read_predictions
from utils.evaluation.protocols import OWN_REASONING
from utils.evaluation.report.tables import heading, table
from utils.evaluation.results import data_facts, write_lines, write_results
from utils.evaluation.scoring import MISSING, score_predictions, score_records
from utils.runtime.errors import UserError, print_result, run_main
from utils.runtime.files import atomic_file, make_output_folder, write_errors_as_user_error
from utils.runtime.logs import start_logging

log = logging.getLogger("score")

# Options that say how the data set is read, as in a header's protocol, and their defaults.
READING = {"limit": None, "skip_bad_records": False, "polygons": "union", "orientation": "check"}


def scored(
    header: dict[str, Any] | None,
    records: Records,
    samples: Sequence[Sample],
    data: dict[str, Any],
    spec: DatasetSpec,
    allow_missing: bool = False,
    metric: str = CLEAN,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The content of metrics.json, and the lines of scores.jsonl.

    Args:
        header: of the predictions, or None.
        records: by control and `Sample.key`.
        samples: of the split.
        data: from `utils.evaluation.results.data_facts`.
        spec: of the data set.
        allow_missing: score records without a prediction as empty, counted.
        metric: which of the data set's rules.

    Raises:
        UserError: predictions and data do not belong together; the first such record is named.
    """
    header = header or {}
    made_of, protocol = header.get("data", {}).get("sha256"), header.get("protocol", {})
    if made_of not in (None, data["sha256"]):
        raise UserError(
            f"the predictions were made of other data: their header has {header['data'].get('records')} records with "
            f"sha256 {made_of[:12]}…, this split {data['records']} with {data['sha256'][:12]}…; name the same --data, "
            "--split, --polygons, --orientation and --limit"
        )
    if protocol.get("matching", spec.matching) != spec.matching:
        raise UserError(
            f"the predictions' header says that masks are matched by {protocol['matching']!r}, but {spec.name} matches "
            f"them by {spec.matching!r}; leave protocol.matching out of it"
        )
    missing = {name: check_complete(one, samples, name, allow_missing) for name, one in records.items()}
    rules = spec.scoring(metric, protocol.get("unit"))
    reasoned = protocol.get("reasoning") == OWN_REASONING and protocol.get("answer_format") == "reasoning"
    metrics, lines = score_predictions(samples, records, rules, spec.group_titles, reasoned)
    if metric == CLEAN and OFFICIAL in spec.rules:
        official = spec.scoring(OFFICIAL, protocol.get("unit"))
        metrics["official"] = official_scores(samples, records[NO_CONTROL], official)
    for control, found in metrics.get("controls", {}).items():
        if missing[control]:
            found[MISSING] = missing[control]
    named = {name: value for name, value in header.items() if name not in ("format", "data")}
    named["protocol"] = {**protocol, "metric": metric, **asdict(rules)}
    del named["protocol"]["metrics"]  # they are those of `overall`
    return {**metrics, "data": data, **named}, lines


def score_and_print(
    header: dict[str, Any] | None,
    records: Records,
    samples: Sequence[Sample],
    data: dict[str, Any],
    spec: DatasetSpec,
    allow_missing: bool = False,
    metric: str = CLEAN,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """`scored`, with what is told of descriptions; heading and tables are printed."""
    metrics, lines = scored(header, records, samples, data, spec, allow_missing, metric)
    grounded = add_grounded(metrics, samples, records, spec, metric)
    print_result(f"{heading(metrics)}\n{table(metrics, spec)}{grounded}")
    return metrics, lines


def official_scores(samples: Sequence[Sample], records: dict[str, Record], rules: ScoringRules) -> dict[str, Any]:
    """The official metrics over all records, which stand beside the clean ones where the two differ."""
    found = [score for score, _, _ in score_records(samples, records, rules)]
    return breakdowns(found, rules, ())["overall"]


def check_complete(records: dict[str, Record], samples: Sequence[Sample], control: str, allow_missing: bool) -> int:
    """Check that there is a record for each sample and none besides.

    Returns:
        how many samples have no record, where `allow_missing` lets them pass

    Raises:
        UserError: naming the first record that is unknown or missing, or answers another question.
    """
    keys = {sample.key: sample for sample in samples}
    under = "" if control == NO_CONTROL else f" under control {control}"
    unknown = [key for key in records if key not in keys]
    if unknown:
        raise UserError(
            f"{len(unknown)} records{under} are not in the data set, the first {unknown[0]!r}; its ids are like "
            f"{samples[0].key!r} (--template writes them all)"
        )
    missing = [key for key in keys if key not in records]
    if missing and not allow_missing:
        raise UserError(
            f"{len(missing)} of {len(keys)} records{under} have no prediction, the first {missing[0]!r}; add them, or "
            "pass --allow-missing to score them as empty"
        )
    for key, record in records.items() if control == NO_CONTROL else ():
        if record["question"].split() != keys[key].question.split():
            raise UserError(f"record {key!r} answers {record['question']!r}, the data set asks {keys[key].question!r}")
    return len(missing)


def template_lines(samples: Sequence[Sample]) -> list[str]:
    """A line for each question of a split, for a model that is not ours: what to ask of which picture."""
    return [
        json.dumps(
            {
                "id": sample.key,
                "image": str(sample.image_path),
                "question": sample.question,
                "height": sample.size[0],
                "width": sample.size[1],
            },
            ensure_ascii=False,
        )
        for sample in samples
    ]


def parser() -> argparse.ArgumentParser:
    """Options; those of reading are taken from the predictions' header where they are not given."""
    found = argparse.ArgumentParser(prog="python -m utils.evaluation.score", description=__doc__.splitlines()[0])
    found.add_argument("predictions", type=Path, nargs="?", help="predictions.jsonl")
    found.add_argument("--data", type=Path, required=True, help="folder of the data set")
    found.add_argument("--dataset", help="name of the data set's format; default: the header's, else drseg")
    found.add_argument("--split", help="default: the header's, else test")
    found.add_argument("--out", type=Path, help="folder of metrics.json and scores.jsonl; default: the predictions'")
    found.add_argument("--polygons", help="union or first; default: the header's, else union")
    found.add_argument("--orientation", help="apply, stored or check; default: the header's, else check")
    found.add_argument("--limit", type=int, help="the first N records only; default: the header's, else all")
    found.add_argument("--skip-bad-records", action="store_true", default=None, help="leave bad records out")
    found.add_argument("--unit", help="target or question; default: the header's, else the data set's")
    found.add_argument("--metric", default=CLEAN, help="rules: clean (default), official, or others of the data set")
    found.add_argument("--allow-missing", action="store_true", help="score records without a prediction as empty")
    found.add_argument("--template", type=Path, help="write the questions to answer to this file, and score nothing")
    return found


def check_options(args: argparse.Namespace) -> None:
    """Check what can be checked before anything is read.

    Raises:
        UserError: naming the option.
    """
    if args.predictions is None and args.template is None:
        raise UserError("name a predictions file, or --template FILE to get the questions")
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit is {args.limit}, expected at least 1")
    if args.unit not in (None, *UNITS):
        raise UserError(f"--unit is {args.unit!r}, expected {' or '.join(UNITS)}")


def with_options(header: dict[str, Any] | None, args: argparse.Namespace) -> dict[str, Any]:
    """The header with the command line's options of reading and scoring in it, so that metrics.json names them.

    Raises:
        UserError: --unit is another than the header's; answers are made to be scored by one of them.
    """
    header = header or {}
    protocol = header.get("protocol", {})
    named = protocol.get("unit")
    if args.unit and named not in (None, args.unit):
        raise UserError(
            f"--unit is {args.unit!r}, but {args.predictions} says in its header that it is to be scored by {named!r}; "
            "leave --unit out"
        )
    given = {name: getattr(args, name) for name in (*READING, "unit") if getattr(args, name) is not None}
    return {**header, "protocol": {**protocol, **given}} if given else header


def read_samples(args: argparse.Namespace, header: dict[str, Any]) -> tuple[list[Sample], dict[str, Any], DatasetSpec]:
    """The samples to score, the facts about them, and their data set, read as command line or header say.

    Raises:
        UserError: the data set cannot be read, or the header's `unasked` are not in it.
    """
    named = header.get("data", {})
    reading = {name: header.get("protocol", {}).get(name, default) for name, default in READING.items()}
    spec = dataset_spec(args.dataset or named.get("dataset", "drseg"))
    split, skipped = args.split or named.get("split", "test"), []
    how = reading["polygons"], reading["skip_bad_records"], reading["orientation"]
    every = load_dataset(args.data, split, spec.name, *how, skipped)
    unasked = named.get("unasked", [])  # the model's tokenizer could not ask them
    unknown = set(unasked) - {sample.key for sample in every}
    if unknown:
        raise UserError(
            f"{args.predictions}, line 1: {len(unknown)} of data.unasked are not in the data set, the first "
            f"{min(unknown)!r}; name the same --data and --split as for the predictions, or leave them out"
        )
    left = set(unasked)
    samples = [sample for sample in every if sample.key not in left][: reading["limit"]]
    if left and not samples:
        raise UserError(f"{args.predictions}, line 1: data.unasked names all records, so that none is left to score")
    return samples, {**data_facts(spec.name, split, samples, skipped), "unasked": list(unasked)}, spec


def main() -> None:
    args = parser().parse_args()
    start_logging()
    check_options(args)
    if args.template:
        samples, _, _ = read_samples(args, with_options(None, args))
        with write_errors_as_user_error(args.template), atomic_file(args.template) as beside:
            write_lines(beside, template_lines(samples))
        log.info("%d questions written to %s", len(samples), args.template)
        return
    check_is_there(args.predictions)
    out = make_output_folder(args.out or args.predictions.parent)
    header, records = read_predictions(args.predictions)
    header = with_options(header, args)
    samples, data, spec = read_samples(args, header)
    metrics, lines = score_and_print(header, records, samples, data, spec, args.allow_missing, args.metric)
    write_results(out, metrics, lines)
    log.info("written to %s", out)


if __name__ == "__main__":
    run_main(main)
