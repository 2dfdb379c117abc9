"""Data sets' folders: what is missing in one, and which folder is meant."""

from __future__ import annotations

from pathlib import Path

from utils.runtime.errors import UserError
from utils.runtime.paths import entries, is_folder

LISTED = 12  # names of a folder that a message shows


def missing_part(root: Path, wanted: Path, layout: str, source: str) -> UserError:
    """The error of a data set's folder that lacks a part.

    Args:
        root: the folder of the data set.
        wanted: the file or folder that is not there.
        layout: the data set's files, one a line, relative to `root`.
        source: where the data set comes from.
    """
    tree = "\n".join(f"    {root}/{line}" for line in layout.splitlines())
    names = [path.name for path in entries(root)]
    found = ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
    return UserError(
        f"{wanted}: missing; the data set is expected as\n{tree}\nand {root} holds {found or 'nothing'} "
        f"(data/README.md). It comes from {source}"
    )


def folder_or_inner(root: Path, name: str) -> Path:
    """The folder called `name` in `root`; `root` itself where it has none, being that folder already."""
    return root / name if is_folder(root / name) else root
