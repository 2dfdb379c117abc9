"""Data folders that are laid out in part: what is missing, what is expected, and what is there."""

from __future__ import annotations

from pathlib import Path

from utils.runtime.errors import UserError
from utils.runtime.paths import entries

SHOWN = 12  # names of what is there


def missing_part(root: Path, wanted: Path, layout: str, source: str) -> UserError:
    """The error about a file or folder that a data set cannot be read without.

    Args:
        root: the folder of the data set.
        wanted: what is missing.
        layout: of the data set, a path under `root` a line.
        source: where it comes from.
    """
    tree = "\n".join(f"    {root}/{line}" for line in layout.splitlines())
    names = [path.name for path in entries(root)]
    there = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    return UserError(
        f"{wanted}: missing; expected is\n{tree}\nand in {root} there is: {there or 'nothing'}. "
        f"The data come from {source}"
    )
