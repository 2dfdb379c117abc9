"""Write report.html from the output folder of an evaluation, or from two to compare them.

    python -m utils.evaluation.report runs/mini/eval --data data/DRSeg-mini --out report.html

The page opens offline. Name the data and the options of reading that were evaluated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from utils.datasets.registry import dataset_spec, load_dataset
from utils.evaluation.report.page import write_report
from utils.runtime.logs import start_logging


def main(argv: list[str] | None = None) -> None:
    """Read options and write the page."""
    args = options(argv)
    start_logging()
    spec = dataset_spec(args.dataset)
    reading = args.dataset, args.polygons, args.skip_bad_records, args.orientation
    write_report(args.out, args.folders, load_dataset(args.data, args.split, *reading), spec)


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
    parser.add_argument("--dataset", default="drseg", help="name of the data set's format (drseg)")
    parser.add_argument("--split", default="test", help="that was evaluated (test)")
    parser.add_argument("--polygons", default="union", help="as evaluated: union or first (union)")
    parser.add_argument("--orientation", default="check", help="as evaluated (check)")
    parser.add_argument("--skip-bad-records", action="store_true", help="skip records that cannot be used")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the page (report.html)")
    return parser.parse_args(argv)
