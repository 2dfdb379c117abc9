"""Compare two evaluations of the same records.

python -m utils.evaluation.compare runs/a/eval runs/b/eval --out difference.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from utils.evaluation.intervals import by_picture, sums_by_picture
from utils.evaluation.metrics import METRICS, SIZE_CLASSES, MaskScore, metric_names
from utils.evaluation.metrics_file import CURE, METRICS_FILE, read_metrics
from utils.evaluation.paired import difference
from utils.evaluation.scores_file import SCORES_FILE, Pair, read_pairs
from utils.runtime.errors import UserError, print_result, run_main
from utils.runtime.files import write_errors_as_user_error, write_json
from utils.runtime.paths import exists, is_folder

DATA = ("dataset", "split", "records", "pictures", "sha256")
# What defines the measurement, where both say it; not where and how fast it ran.
PROTOCOL = ("kind", "reasoning", "decoding", "limit", "polygons", "orientation", "matching", "unit", "metric")


class Line(NamedTuple):
    """The score of a pair of masks, and the id of its record."""

    id: str
    score: MaskScore


class Evaluation(NamedTuple):
    """An output folder."""

    scores: Path
    metrics: dict[str, Any]
    lines: list[Line]


def load(path: Path) -> Evaluation:
    """Read an output folder, or the one in which a scores.jsonl lies; lines of controls are left out.

    Raises:
        UserError: a file is missing or broken, or lacks a field.
    """
    if not exists(path):
        raise UserError(f"{path}: not there; name the output folder of an evaluation, or its {SCORES_FILE}")
    scores = path / SCORES_FILE if is_folder(path) else path
    metrics = read_metrics(scores.parent)
    for name in ("data", "protocol"):
        if name not in metrics:
            raise UserError(f"{scores.parent / METRICS_FILE}: {name} is missing; {CURE}")
    return evaluation(scores, metrics, read_pairs(scores))


def evaluation(scores: Path, metrics: dict[str, Any], pairs: list[Pair]) -> Evaluation:
    """What two files hold that have been read."""
    indices: dict[str, int] = {}
    of_all = bool(metrics.get("protocol", {}).get("precision_of_all"))
    lines = [Line(pair.id, _mask_score(pair, indices.setdefault(pair.id, len(indices)), of_all)) for pair in pairs]
    return Evaluation(scores, metrics, lines)


def _mask_score(pair: Pair, index: int, precision_of_all: bool) -> MaskScore:
    return MaskScore(
        index=index,
        target=-1 if pair.target is None else pair.target,
        intersection=pair.intersection,
        union=pair.union,
        area=pair.area,
        pixels=pair.pixels,
        groups=pair.groups,
        picture=pair.picture,
        # A pair without overlap is written with an IoU of 0 even where both are empty: one mask is then missing.
        matched=pair.iou > 0,
        predicted=pair.mask is not None,
        for_precision=pair.target is not None or precision_of_all and not pair.targets,
        targets=pair.targets,
        record=pair.record,
    )


def check_comparable(a: Evaluation, b: Evaluation) -> None:
    """Refuse evaluations of other data, other records or by another protocol.

    Raises:
        UserError: with both values.
    """
    for part, names in (("data", DATA), ("protocol", PROTOCOL)):
        for name in names:
            unsaid = "?"  # someone else's predictions do not say how they were made
            one, other = (side.metrics[part].get(name, unsaid) for side in (a, b))
            if one != other and unsaid not in (one, other):
                raise UserError(
                    f"{part} {name!r} differs: {one!r} in {a.scores.parent}, {other!r} in {b.scores.parent}; "
                    "evaluate both in the same way"
                )
    metrics = [metric_names(side.metrics["overall"]) for side in (a, b)]
    if not set(metrics[0]) & set(metrics[1]):
        raise UserError(
            f"no metric in common: {a.scores.parent} has {', '.join(metrics[0]) or 'none'}, {b.scores.parent} has "
            f"{', '.join(metrics[1]) or 'none'}; score both by the same rules (--metric)"
        )
    known = [{line.id: (line.score.picture, dict(line.score.groups)) for line in side.lines} for side in (a, b)]
    for here, there, (mine, yours) in ((a, b, known), (b, a, known[::-1])):
        missing = sorted(mine.keys() - yours.keys())
        if missing:
            more = f" and {len(missing) - 3:,} more" if len(missing) > 3 else ""
            raise UserError(
                f"records in {here.scores} but not in {there.scores}: {', '.join(missing[:3])}{more}; "
                "evaluate both on the same records"
            )
        for record in sorted(mine):
            if mine[record] != yours[record]:
                raise UserError(
                    f"record {record}: picture and groups are {mine[record]!r} in {here.scores}, {yours[record]!r} in "
                    f"{there.scores}; evaluate both on the same data"
                )


def compare(a: Evaluation, b: Evaluation, seed: int = 0) -> dict[str, dict[str, dict]]:
    """By breakdown and value: `count_a`, `count_b`, and `paired.difference` of each metric."""
    groups = sorted(
        {
            name
            for side in (a, b)
            for line in side.lines
            for name, value in line.score.groups.items()
            if not isinstance(value, (list, tuple))  # what belongs to parts of a question is no group of questions
        }
    )
    metrics = [name for name in metric_names(a.metrics["overall"]) if name in b.metrics["overall"]]
    keys: dict[str, Callable[[Line], str | None]] = {
        "overall": lambda line: "all",
        "target size": lambda line: line.score.size_class,
        "targets": lambda line: line.score.count_class,
        **{name: lambda line, name=name: _text(line.score.groups.get(name)) for name in groups},
    }
    if all(line.score.targets == 1 for side in (a, b) for line in side.lines):
        del keys["targets"]
    result: dict[str, dict[str, dict]] = {}
    for title, key in keys.items():
        values = {key(line) for side in (a, b) for line in side.lines} - {None}
        order = [v for v in SIZE_CLASSES if v in values] if title == "target size" else sorted(values)
        result[title] = {
            value: _compared(*([li.score for li in side.lines if key(li) == value] for side in (a, b)), metrics, seed)
            for value in order
        }
    return result


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _compared(a: list[MaskScore], b: list[MaskScore], metrics: list[str], seed: int) -> dict[str, Any]:
    """Counts, and the difference of each metric that counts anything here."""
    pictures, sides = sorted({score.picture for score in a + b}), [by_picture(scores) for scores in (a, b)]
    counted = [metric for metric in metrics if METRICS[metric].terms(a) and METRICS[metric].terms(b)]
    return {
        "count_a": len(a),
        "count_b": len(b),
        **{
            metric: difference(*(sums_by_picture(side, pictures, metric) for side in sides), metric, seed=seed)
            for metric in counted
        },
    }


def table(result: dict[str, dict[str, dict]]) -> str:
    """The comparison as text, a row for each value and metric."""
    rows = [f"{'group':32} {'metric':8} {'count':>11} {'A':>7} {'B':>7} {'B - A':>8} {'95 % interval':>18} {'p':>7}"]
    for title, values in result.items():
        for value, found in values.items():
            name = title if title == "overall" else f"{title}: {value}"
            a, b = found["count_a"], found["count_b"]
            count = str(a) if a == b else f"{a}/{b}"
            for metric in metric_names(found):
                one = found[metric]
                ends, p = one["interval"], one["p"]
                interval = f"{ends[0]:+.4f} {ends[1]:+.4f}" if ends else "-"
                numbers = f"{one['a']:7.4f} {one['b']:7.4f} {one['difference']:+8.4f} {interval:>18}"
                shown = "-" if p is None else f"{p:.4f}"
                rows.append(f"{name:32} {METRICS[metric].title:8} {count:>11} {numbers} {shown:>7}")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m utils.evaluation.compare", description=__doc__.splitlines()[0])
    parser.add_argument("a", type=Path, metavar="A", help="output folder of an evaluation, or its scores.jsonl")
    parser.add_argument("b", type=Path, metavar="B", help="another of the same data")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the comparison as JSON too")
    parser.add_argument("--seed", type=int, default=0, help="of resampling and permutations")
    arguments = parser.parse_args()
    if arguments.seed < 0:
        raise UserError(f"--seed {arguments.seed}: give a seed that is not negative")
    a, b = load(arguments.a), load(arguments.b)
    check_comparable(a, b)
    result = compare(a, b, arguments.seed)
    print_result(table(result))
    if arguments.out:
        with write_errors_as_user_error(arguments.out):
            write_json(arguments.out, {"a": str(arguments.a), "b": str(arguments.b), "seed": arguments.seed, **result})


if __name__ == "__main__":
    run_main(main)
