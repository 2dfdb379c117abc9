"""What is told of a data set that is only half laid out."""

from __future__ import annotations

from pathlib import Path

from utils.runtime.errors import UserError
from utils.runtime.paths import entries

MOST_NAMED = 12


def missing_part(root: Path, wanted: Path, layout: str, source: str) -> UserError:
    """The error of a file or folder that a data set lacks.

    Args:
        root: the data set's folder.
        wanted: what is not there.
        layout: the tree that is expected below `root`, a line a file.
        source: where the data set comes from.
    """
    tree = "\n".join(f"    {root}/{line}" for line in layout.splitlines())
    names = [f"{one.name}/" if one.is_dir() else one.name for one in entries(root)]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    found = ", ".join(names[:MOST_NAMED]) + more if names else "nothing"
    return UserError(
        f"{wanted}: missing; the layout is\n{tree}\nand {root} holds {found}. It comes from {source}"
    )
