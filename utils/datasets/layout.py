"""What is told about a data set's folder that is not laid out as its loader expects, or has no such split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from utils.runtime.errors import UserError
from utils.runtime.paths import entries, is_folder

T = TypeVar("T")
SHOWN = 12  # names of what lies there instead


class NotThere(UserError):
    """A split, or a part that it needs, is not there; what reads all splits that are there passes it by."""


def check_split_name(name: str, split: str, splits: Sequence[str]) -> None:
    """Check that a data set has a split of this name.

    Args:
        name: of the data set.
        split: the name that is asked for.
        splits: those that the data set has.

    Raises:
        UserError: it is none of them.
    """
    if split not in splits:
        raise UserError(f"{name} has no split {split!r}; it has {', '.join(splits)}")


def those_there(
    splits: Sequence[str], read: Callable[[str], T], option: str
) -> tuple[dict[str, T], dict[str, NotThere]]:
    """What `read` makes of each split that is there, and why each other one is not.

    Args:
        splits: to try.
        read: reads one.
        option: that names splits, for the error.

    Raises:
        UserError: none is there.
    """
    found: dict[str, T] = {}
    missing: dict[str, NotThere] = {}
    for split in splits:
        try:
            found[split] = read(split)
        except NotThere as error:
            missing[split] = error
    if not found:
        told = next(iter(missing.values()), "")
        raise UserError(f"none of the splits {', '.join(splits)} is there; name others with {option}\n{told}")
    return found, missing


def missing_part(root: Path, wanted: Path, layout: str, source: str) -> NotThere:
    """The error about a file or folder that a data set lacks: what it is, the expected tree, what lies there instead.

    Args:
        root: the folder of the data set.
        wanted: the part that is not there, inside `root`.
        layout: `DatasetSpec.layout`.
        source: `DatasetSpec.source`.
    """
    tree = "\n".join(f"    {root}/{line}" for line in layout.splitlines())
    folder = wanted.parent
    while folder != root and root in folder.parents and not folder.is_dir():
        folder = folder.parent
    names = [entry.name for entry in entries(folder)]
    listed = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")
    return NotThere(
        f"{wanted}: not there; expected is\n{tree}\nIn {folder} there is: {listed or 'nothing'}. The data come from "
        f"{source}"
    )


def folder_or_inner(root: Path, name: str) -> Path:
    """The folder called `name` in `root`; `root` itself where it has none, being that folder already."""
    return root / name if is_folder(root / name) else root
