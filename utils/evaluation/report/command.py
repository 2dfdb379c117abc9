"""Write report.html from the output folder of an evaluation, or from two to compare them.

    python -m utils.evaluation.report runs/mini/eval --data data/DRSeg-mini --out report.html

The page opens offline. Data set, split and options of reading are those of the evaluation where they are not given.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from utils.datasets.registry import dataset_spec, load_dataset
from utils.evaluation.metrics_file import read_metrics
from utils.evaluation.report.page import write_report
from utils.evaluation.report.runs import object_of
from utils.runtime.logs import start_logging


def main(argv: list[str] | None = None) -> None:
    """Read options and write the page."""
    args = options(argv)
    start_logging()
    metrics = read_metrics(args.folders[0])
    named = {**object_of(metrics, "data"), **object_of(metrics, "protocol")}

    def chosen(name: str, default: Any) -> Any:
        given = getattr(args, name)
        return named.get(name, default) if given is None else given

    spec = dataset_spec(chosen("dataset", "drseg"))
    reading = chosen("polygons", "union"), chosen("skip_bad_records", False), chosen("orientation", "check")
    write_report(args.out, args.folders, load_dataset(args.data, chosen("split", "test"), spec.name, *reading), spec)


def options(argv: list[str] | None) -> argparse.Namespace:
    """The command line's options; a malformed one ends the process with status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.evaluation.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="of an evaluation; one, or two")
    parser.add_argument("--data", required=True, help="folder of the data set")
    parser.add_argument("--dataset", help="name of the data set's format; default: the evaluation's, else drseg")
    parser.add_argument("--split", help="default: the evaluation's, else test")
    parser.add_argument("--polygons", help="union or first; default: the evaluation's, else union")
    parser.add_argument("--orientation", help="apply, stored or check; default: the evaluation's, else check")
    parser.add_argument("--skip-bad-records", action="store_true", default=None, help="leave bad records out")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the page (report.html)")
    return parser.parse_args(argv)
