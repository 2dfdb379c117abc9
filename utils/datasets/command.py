"""Look at data sets, one's own or published ones, before a run is started on them.

    python -m utils.datasets list                                     names, splits, where they come from
    python -m utils.datasets check coco data/mine --out runs/check    counts, bad records, and a sheet of samples
    python -m utils.datasets convert coco data/mine --out data/new    the same in DRSeg's layout

`check` ends with status 1 where records are bad, and with 2, as all commands do, where nothing can be read.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from utils.datasets.check import Checked, check_split, report
from utils.datasets.convert import convert, log_converted
from utils.datasets.drawn_splits import ALL
from utils.datasets.layout import NotThere, those_there
from utils.datasets.reading import ORIENTATIONS, POLYGON_RULES
from utils.datasets.registry import DATASETS, dataset_spec
from utils.datasets.sheet import choose, draw_sheet
from utils.runtime.errors import UserError, print_result
from utils.runtime.files import atomic_file, make_output_folder

log = logging.getLogger(__name__)

FAULTS_STATUS = 1
SAMPLES = 12


def main(argv: list[str] | None = None) -> int:
    """Command line of this package."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.command == "list":
        print_result(list_text())
        return 0
    return run_check(args) if args.command == "check" else run_convert(args)


def parser() -> argparse.ArgumentParser:
    """Of the three commands."""
    top = argparse.ArgumentParser(
        prog="python -m utils.datasets", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the data sets that can be read")
    check = commands.add_parser("check", help="count what is there, list what is wrong, draw samples")
    check.add_argument("--split", help=f"default: {ALL} where there is that, else every split that is there")
    check.add_argument("--out", type=Path, help="folder for the sheet of samples and the report")
    check.add_argument("--samples", type=int, default=SAMPLES, help=f"on the sheet; default: {SAMPLES}")
    check.add_argument("--seed", type=int, default=0, help="of the choice of samples")
    new = commands.add_parser("convert", help="write the data set in DRSeg's layout")
    new.add_argument("--split", nargs="+", help="default: those of train, val and test that are there")
    new.add_argument("--out", type=Path, required=True, help="the new folder")
    new.add_argument("--polygons", choices=POLYGON_RULES, default=POLYGON_RULES[0], help="of a target")
    new.add_argument("--skip-bad-records", action="store_true", help="leave them out, counted and listed")
    for one in (check, new):
        one.add_argument("name", help=f"of {', '.join(DATASETS)}")
        one.add_argument("folder", type=Path, help="of the data set")
        one.add_argument("--orientation", choices=ORIENTATIONS, default=ORIENTATIONS[0], help="of tagged pictures")
    return top


def list_text() -> str:
    """The registry as a table."""
    rows = [("name", "splits", "comes from"), *((s.name, ", ".join(s.splits), s.source) for s in DATASETS.values())]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return "\n".join(f"{name:{widths[0]}}  {splits:{widths[1]}}  {source}" for name, splits, source in rows)


def run_check(args: argparse.Namespace) -> int:
    """`check`: 0 where all records can be used, else 1."""
    if args.samples < 1:
        raise UserError(f"--samples is {args.samples}; it must be at least 1")
    spec = dataset_spec(args.name)
    splits = [args.split] if args.split else [ALL] if ALL in spec.splits else spec.splits
    if args.out is not None:
        make_output_folder(args.out)
    found, missing = check_splits(args, splits)
    text = "\n\n".join(report(one, args.name, args.folder, split) for split, one in found.items())
    text += "".join(f"\n\nSplit {split} is not there: {str(why).splitlines()[0]}" for split, why in missing.items())
    print_result(text)
    if args.out is not None:
        chosen = choose(
            [sample for one in found.values() for sample in one.samples],
            args.samples,
            list(spec.group_titles),
            args.seed,
        )
        with atomic_file(args.out / "sheet.png") as beside:
            Image.fromarray(draw_sheet(chosen.samples)).save(beside, "PNG")
        with atomic_file(args.out / "report.txt") as beside:
            beside.write_text(f"{text}\n", "utf-8", "backslashreplace")
        print_result(f"\n{args.out / 'sheet.png'}: {len(chosen.samples)} of {chosen.of} questions; look at them")
    return FAULTS_STATUS if any(one.bad for one in found.values()) else 0


def check_splits(args: argparse.Namespace, splits: Sequence[str]) -> tuple[dict[str, Checked], dict[str, NotThere]]:
    """What the check of each split found, and why each that is not there cannot be read.

    Raises:
        UserError: there is no such data set, none of several splits or not the only one is there, or nothing in one can
            be used.
    """

    def read(split: str) -> Checked:
        return check_split(args.folder, split, args.name, args.orientation)

    if len(splits) == 1:
        return {splits[0]: read(splits[0])}, {}
    return those_there(splits, read, "--split")


def run_convert(args: argparse.Namespace) -> int:
    """`convert`: 0."""
    done = convert(
        args.folder,
        args.split,
        args.name,
        args.out,
        polygons=args.polygons,
        skip_bad_records=args.skip_bad_records,
        orientation=args.orientation,
    )
    for split, one in done.items():
        log_converted(split, one)
    print_result(f"{args.out}: written; train with --data {args.out}")
    return 0
