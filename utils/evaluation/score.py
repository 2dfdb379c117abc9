"""Score a predictions file: `python -m utils.evaluation.score predictions.jsonl --data DIR --split test`.

Reads that file and the data set, nothing else; prints the table and writes metrics.json and scores.jsonl. With
`--template FILE` it writes the questions to answer instead. The format: utils/evaluation/README.md.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.datasets.base import DatasetSpec, Sample
from utils.datasets.registry import dataset_spec, load_dataset
from utils.evaluation.controls import NO_CONTROL
from utils.evaluation.grounded import add_grounded
from utils.evaluation.predictions import Record, Records, read_predictions
from utils.evaluation.protocols import OWN_REASONING
from utils.evaluation.report.tables import heading, table
from utils.evaluation.results import data_facts, write_results
from utils.evaluation.scoring import QUESTION, score_predictions
from utils.runtime.errors import UserError, print_result, run_main
from utils.runtime.files import atomic_file, make_output_folder, write_errors_as_user_error
from utils.runtime.logs import start_logging

log = logging.getLogger("score")


def scored(
    header: dict[str, Any] | None,
    records: Records,
    samples: Sequence[Sample],
    data: dict[str, Any],
    spec: DatasetSpec,
    allow_missing: bool = False,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The content of metrics.json, and the lines of scores.jsonl.

    Args:
        header: of the predictions, or None.
        records: by control and `Sample.key`.
        samples: of the split.
        data: from `utils.evaluation.results.data_facts`.
        spec: of the data set.
        allow_missing: score records without a prediction as empty, counted.

    Raises:
        UserError: predictions and data do not belong together; the first such record is named.
    """
    header = header or {}
    made_of = header.get("data", {}).get("sha256")
    if made_of not in (None, data["sha256"]):
        raise UserError(
            f"the predictions were made of other data: their header has {header['data'].get('records')} records with "
            f"sha256 {made_of[:12]}…, this split {data['records']} with {data['sha256'][:12]}…; name the same --data, "
            "--split, --polygons, --orientation and --limit"
        )
    for control, of_control in records.items():
        check_complete(of_control, samples, control, allow_missing)
    protocol = header.get("protocol", {})
    unit = protocol.get("unit", spec.unit)
    reasoned = protocol.get("reasoning") == OWN_REASONING and protocol.get("answer_format") == "reasoning"
    metrics, lines = score_predictions(samples, records, spec, unit, reasoned)
    named = {name: value for name, value in header.items() if name not in ("format", "data")}
    named["protocol"] = {"matching": spec.matching, **protocol, "unit": unit}
    return {**metrics, "data": data, **named}, lines


def check_complete(records: dict[str, Record], samples: Sequence[Sample], control: str, allow_missing: bool) -> None:
    """Check that there is a record for each sample and none besides.

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
    found.add_argument("--out", help="folder of metrics.json and scores.jsonl; default: that of the predictions")
    found.add_argument("--polygons", help="union or first; default: the header's, else union")
    found.add_argument("--orientation", help="apply, stored or check; default: the header's, else check")
    found.add_argument("--limit", type=int, help="the first N records only; default: the header's, else all")
    found.add_argument("--skip-bad-records", action="store_true", default=None, help="leave bad records out")
    found.add_argument("--unit", help="target or question; only without a header")
    found.add_argument("--allow-missing", action="store_true", help="score records without a prediction as empty")
    found.add_argument("--template", type=Path, help="write the questions to answer to this file, and score nothing")
    return found


def main() -> None:
    args = parser().parse_args()
    start_logging()
    if args.predictions is None and args.template is None:
        raise UserError("name a predictions file, or --template FILE to get the questions")
    header, records = (None, {}) if args.template else read_predictions(args.predictions)
    named = {**((header or {}).get("data") or {}), **((header or {}).get("protocol") or {})}

    def chosen(name: str, default: Any) -> Any:
        given = getattr(args, name)
        return named.get(name, default) if given is None else given

    spec, skipped = dataset_spec(chosen("dataset", "drseg")), []
    split, reading = chosen("split", "test"), [chosen("polygons", "union"), chosen("skip_bad_records", False)]
    samples = load_dataset(args.data, split, spec.name, *reading, chosen("orientation", "check"), skipped)
    unasked = set(named.get("unasked", ()))  # the model's tokenizer could not ask them
    samples = [sample for sample in samples if sample.key not in unasked][: chosen("limit", None)]
    if args.template:
        with write_errors_as_user_error(args.template), atomic_file(args.template) as beside:
            beside.write_text("".join(f"{line}\n" for line in template_lines(samples)), encoding="utf-8")
        log.info("%d questions written to %s", len(samples), args.template)
        return
    if args.unit:
        if header:
            raise UserError(f"--unit {args.unit}: the predictions' header says it already; leave it out")
        if args.unit not in ("target", QUESTION):
            raise UserError(f"--unit is {args.unit!r}; known are target, {QUESTION}")
        header = {"protocol": {"unit": args.unit}}
    data = data_facts(spec.name, split, samples, named.get("skipped", skipped))
    data["unasked"] = list(named.get("unasked", ()))
    metrics, lines = scored(header, records, samples, data, spec, args.allow_missing)
    grounded = add_grounded(metrics, samples, records, spec)
    print_result(f"{heading(metrics)}\n{table(metrics, spec)}{grounded}")
    out = make_output_folder(args.out or args.predictions.parent)
    write_results(out, metrics, lines)
    log.info("written to %s", out)


if __name__ == "__main__":
    run_main(main)
