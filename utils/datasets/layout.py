"""What is told about a data set's folder that is not laid out as its loader expects."""

from __future__ import annotations

from pathlib import Path

from utils.runtime.errors import UserError
from utils.runtime.paths import entries

SHOWN = 12  # names of what lies there instead


def missing_part(root: Path, wanted: Path, layout: str, source: str) -> UserError:
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
    return UserError(
        f"{wanted}: not there; expected is\n{tree}\nIn {folder} there is: {listed or 'nothing'}. The data come from "
        f"{source}"
    )
