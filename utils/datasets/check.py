"""What a data set holds, counted: pictures, questions, targets and their sizes, and what is wrong with it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools import mask as coco

from model.masks import polygons_rle
from utils.datasets.base import Sample
from utils.datasets.layout import NotThere
from utils.datasets.registry import dataset_spec, load_dataset
from utils.runtime.errors import UserError

SKIPPED = " skipped:\n"  # in the warning that lists bad records
UNKNOWN = "not known"
MOST_SHOWN = 50  # bad records that are listed
MOST_VALUES = 20  # values of a group that are listed
SHARES = (0.0, 0.001, 0.01, 0.02, 0.05, 0.25, 1.0)  # of the frame
TINY = 64  # pixels of a target, below which a mask decoder's grid sees little of it


@dataclass
class Checked:
    """What the check of a split found.

    Args:
        samples: that can be used.
        bad: what is wrong with each record that cannot.
        told: warnings of the reading.
    """

    samples: list[Sample]
    bad: list[str]
    told: list[str]


class _Collector(logging.Handler):
    """Keeps messages instead of writing them."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(record.getMessage())


@contextmanager
def collected(name: str = "utils") -> Iterator[list[str]]:
    """What the logger of a package is told in the block, which then goes nowhere else."""
    logger, handler = logging.getLogger(name), _Collector()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield handler.told
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def check_split(root: Path, split: str, name: str, orientation: str = "check") -> Checked:
    """Read a split, decoding every picture, and keep what is wrong.

    Raises:
        NotThere: there is no such split, or a part of it is missing.
        UserError: there is no such data set, or nothing in the split can be used.
    """
    bad: list[str] = []
    with collected() as told:
        try:
            samples = load_dataset(root, split, name, skip_bad_records=True, orientation=orientation, skipped=bad)
        except NotThere:
            raise
        except UserError as error:
            raise UserError("\n".join([str(error), *told])) from error
    return Checked(samples, bad, [one for one in told if SKIPPED not in one])  # those are among the bad ones


def report(checked: Checked, name: str, root: Path, split: str) -> str:
    """The findings as text."""
    samples = checked.samples
    pictures = {one.image_path for one in samples}
    lines = [f"{name} {root}, split {split}: {len(samples):,} questions about {len(pictures):,} pictures", ""]
    lines += bad_lines(checked.bad)
    if checked.told:
        lines += ["Told while it was read:", *(f"  {one}" for one in checked.told), ""]
    for group, title in dataset_spec(name).group_titles.items():
        counts = Counter(one.groups.get(group, UNKNOWN) for one in samples)
        lines += table(f"By {title}", counts) if counts.keys() != {UNKNOWN} else []
    lines += table("Targets a question", Counter(len(one.targets) for one in samples), by_value=True)
    lines += size_lines(samples)
    sizes = Counter(f"{one.size[1]}x{one.size[0]}" for one in {one.image_path: one for one in samples}.values())
    return "\n".join([*lines, *table("Pictures by size", sizes)]).rstrip()


def bad_lines(bad: Sequence[str]) -> list[str]:
    """Each bad record in a line."""
    if not bad:
        return ["Nothing is wrong with any record.", ""]
    more = [f"  … and {len(bad) - MOST_SHOWN:,} more"] if len(bad) > MOST_SHOWN else []
    return [f"{len(bad):,} bad records, which training would refuse without --skip-bad-records:",
            *(f"  {one}" for one in bad[:MOST_SHOWN]), *more, ""]  # fmt: skip


def table(title: str, counts: Counter, by_value: bool = False) -> list[str]:
    """Counts with their shares, the commonest first or in the order of the values; none of what is always so."""
    rows = sorted(counts.items()) if by_value else counts.most_common()
    total, width = sum(counts.values()), max(len(str(value)) for value, _ in rows[:MOST_VALUES])
    lines = [f"  {str(value):{width}}  {count:7,}  {count / total:6.1%}" for value, count in rows[:MOST_VALUES]]
    more = [f"  … and {len(rows) - MOST_VALUES} other values"] if len(rows) > MOST_VALUES else []
    return [title, *lines, *more, ""]


def target_areas(samples: Sequence[Sample]) -> np.ndarray:
    """Pixels of every target and the share of its frame that they are: float[N, 2]; shared targets are drawn once."""
    known: dict[int, tuple[int, float]] = {}
    rows = []
    for sample in samples:
        for target in sample.targets:
            if id(target) not in known:
                frame = sample.height, sample.width
                rle = target if isinstance(target, dict) else polygons_rle(target, frame, frame)
                area = int(coco.area(rle))
                known[id(target)] = area, area / (frame[0] * frame[1])
            rows.append(known[id(target)])
    return np.array(rows, np.float64).reshape(-1, 2)


def size_lines(samples: Sequence[Sample]) -> list[str]:
    """How large the targets are."""
    areas = target_areas(samples)
    if not len(areas):
        return ["There are no targets.", ""]
    bins = Counter()
    for low, high in zip(SHARES[:-1], SHARES[1:], strict=True):
        inside = (areas[:, 1] > low) & (areas[:, 1] <= high)
        bins[f"{low:.1%} to {high:.1%}"] = int(inside.sum())
    rows = [f"  {label:15}  {count:7,}  {count / len(areas):6.1%}" for label, count in bins.items()]
    pixels = areas[:, 0]
    tiny = int((pixels < TINY).sum())
    summary = f"  pixels: median {np.median(pixels):,.0f}, from {pixels.min():,.0f} to {pixels.max():,.0f}"
    warning = [f"  {tiny:,} targets have fewer than {TINY} pixels; look at whether they can be seen"] if tiny else []
    return [f"Targets by share of the frame ({len(areas):,})", *rows, summary, *warning, ""]
