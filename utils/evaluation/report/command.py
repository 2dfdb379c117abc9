"""Write report.html from the output folder of an evaluation, or from two to compare them.

    python -m utils.evaluation.report runs/mini/eval --data data/DRSeg-mini --out report.html

The page opens offline. Name the data and the options of reading that were evaluated.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from model.config import PixDLMConfig
from utils.datasets.base import Sample
from utils.datasets.registry import dataset_spec, load_dataset
from utils.evaluation.report.page import write_report
from utils.evaluation.report.runs import CURE, METRICS_FILE
from utils.runtime.errors import UserError
from utils.runtime.json_files import read_json
from utils.runtime.logs import start_logging


def main(argv: list[str] | None = None) -> None:
    """Read options and write the page."""
    args = options(argv)
    start_logging()
    spec = dataset_spec(args.dataset)
    merged = answers_with_one_mask(args.folders)
    reading = args.dataset, args.polygons, args.skip_bad_records, args.orientation
    samples = load_dataset(args.data, args.split, *reading)
    write_report(args.out, args.folders, by_key(samples), spec, merged)


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


def by_key(samples: list[Sample]) -> dict[str, Sample]:
    """Samples by what evaluations call them."""
    return {sample.key: sample for sample in samples}


def answers_with_one_mask(folders: list[Path]) -> bool:
    """Whether the evaluated models answer with one mask, so that targets were scored as their union.

    Raises:
        UserError: a folder holds no evaluation, or one of two models does and the other does not.
    """
    found = {_single_target(folder) for folder in folders}
    if len(found) > 1:
        raise UserError(
            f"{folders[0]} and {folders[1]}: one model answers with one mask and the other with one for each target, "
            "so that their scores are of different targets; report on each alone"
        )
    return found.pop()


def _single_target(folder: Path) -> bool:
    metrics: Any = read_json(folder / METRICS_FILE, CURE)
    config = metrics.get("config") if isinstance(metrics, dict) else None
    if not isinstance(config, dict):
        raise UserError(f"{folder / METRICS_FILE}: holds no `config`; {CURE}")
    return bool(config.get("single_target", PixDLMConfig().single_target))
