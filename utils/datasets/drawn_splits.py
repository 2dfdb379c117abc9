"""Splits of one's own pictures: as ROOT/splits.json says, or drawn by the pictures' names."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from utils.datasets.checks import shortened
from utils.datasets.layout import NotThere
from utils.runtime.errors import UserError
from utils.runtime.json_files import read_json
from utils.runtime.paths import is_file

log = logging.getLogger(__name__)

SPLITS_FILE = "splits.json"
ALL = "all"
TEST_SHARE = VAL_SHARE = 0.1
DRAWN = ("train", "val", "test")
ALIASES = {"val": ("val", "valid", "validation")}  # Roboflow writes `valid`


def spellings(split: str) -> tuple[str, ...]:
    """The names under which tools write a split."""
    return ALIASES.get(split, (split,))


def pictures_of_split(root: Path, names: Iterable[str], split: str) -> set[str]:
    """Which pictures belong to a split.

    `all` are all of them. Where ROOT/splits.json lists names, those. Otherwise each name is hashed to a number from 0
    to 1: test below 0.1, val below 0.2, train the rest, so that a picture keeps its split when others are added. Where
    that leaves test or val empty, each takes the one picture that is nearest to its range.

    Args:
        root: of the data set.
        names: of its pictures, as its labels write them.
        split: which.

    Raises:
        UserError: there is no such split, it would be empty, or splits.json contradicts itself or the labels.
    """
    names = sorted(set(names))
    if split == ALL:
        return set(names)
    file = root / SPLITS_FILE
    if is_file(file):
        return _listed(file, names, split)
    if split not in DRAWN:
        raise NotThere(
            f"{root}: no split {split!r}; drawn by the pictures' names are {', '.join(DRAWN)}, and {ALL} is all. "
            f"Others are listed in {file} as {{name: [picture, …]}}"
        )
    if len(names) < len(DRAWN):
        raise UserError(
            f"{root}: {len(names)} pictures cannot be divided into {', '.join(DRAWN)}; take --split {ALL}, or list "
            f"who belongs where in {file}"
        )
    drawn = drawn_parts(names)
    log.info("%s: splits drawn by the pictures' names: %s", root, ", ".join(f"{n} {len(p)}" for n, p in drawn.items()))
    return set(drawn[split])


def drawn_parts(names: list[str]) -> dict[str, list[str]]:
    """The names by split, of three names or more; no split is empty."""
    places = sorted((name_place(name), name) for name in names)
    test = max(1, sum(place < TEST_SHARE for place, _ in places))
    val = max(1, sum(place < TEST_SHARE + VAL_SHARE for place, _ in places) - test)
    test = min(test, len(names) - 2)
    val = min(val, len(names) - test - 1)
    ordered = [name for _, name in places]
    return {"train": ordered[test + val :], "val": ordered[test : test + val], "test": ordered[:test]}


def name_place(name: str) -> float:
    """A number from 0 to 1 that only the picture's file name decides, not the folder that it lies in."""
    digest = hashlib.sha256(base_name(name).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def base_name(name: str) -> str:
    """The file name of a path, written with either slash."""
    return PurePosixPath(name.replace("\\", "/")).name


def _listed(file: Path, names: list[str], split: str) -> set[str]:
    table = _checked_table(file, read_json(file))
    found = next((one for one in spellings(split) if one in table), None)
    if found is None:
        raise NotThere(f"{file}: no split {split!r}; there are {', '.join(table)}, and {ALL} is everything")
    by_name: dict[str, list[str]] = {}
    for name in names:
        for key in {name, base_name(name), base_name(name).rpartition(".")[0]}:
            by_name.setdefault(key, []).append(name)
    owner: dict[str, tuple[str, str]] = {}  # of each picture: its split, and how it is written there
    for part, listed in table.items():
        for one in listed:
            picture = _picture_meant(file, part, one, by_name)
            other, written = owner.setdefault(picture, (part, one))
            if other != part:
                raise UserError(
                    f"{file}: {picture!r} stands in {other!r} as {shortened(written)} and in {part!r} as "
                    f"{shortened(one)}; leave it in one"
                )
    if idle := len(names) - len(owner):
        log.warning("%s: %d of %d pictures that have labels are in no split", file, idle, len(names))
    chosen = {picture for picture, (part, _) in owner.items() if part == found}
    if not chosen:
        raise UserError(f"{file}: split {found!r} is empty")
    return chosen


def _picture_meant(file: Path, split: str, one: str, by_name: dict[str, list[str]]) -> str:
    """The one picture that a path, file name or file name without its ending stands for."""
    meant = by_name.get(one, [])
    if len(meant) != 1:
        told = "no picture that has labels" if not meant else f"{len(meant)} pictures ({', '.join(meant[:3])})"
        raise UserError(f"{file}: {shortened(one)} in {split!r} names {told}; mend it there")
    return meant[0]


def _checked_table(file: Path, table: Any) -> dict[str, list[str]]:
    if not isinstance(table, dict) or not all(isinstance(names, list) for names in table.values()):
        raise UserError(f"{file}: expected {{split: [picture, …]}}")
    for split, names in table.items():
        for name in names:
            if not isinstance(name, str):
                raise UserError(f"{file}: split {split!r} holds {shortened(name)}, expected names of pictures")
    return table
