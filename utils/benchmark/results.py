"""The rows of a run as a table, with ratios to an earlier run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from utils.runtime.errors import UserError
from utils.runtime.json_files import read_json

# Title -> field of a row, factor, format.
COLUMNS = {
    "ms/sample": ("seconds_per_sample", 1000, ".1f"),
    "samples/s": ("samples_per_second", 1, ".2f"),
    "GFLOP": ("flops_per_sample", 1e-9, ".2f"),
    "of peak": ("share_of_peak", 1, ".1%"),
    "peak MiB": ("memory_peak_bytes", 2**-20, ".0f"),
    "added": ("memory_added_bytes", 2**-20, ".0f"),
}
RATIOS = {"old/new": "seconds_per_sample", "memory": "memory_peak_bytes"}  # above 1: the new run is better


def table(rows: list[dict[str, Any]], old: list[dict[str, Any]] | None = None) -> str:
    """Aligned text, sections below their part; with the rows of an earlier run, ratios to those of the same name.

    Unknown values stay empty.
    """
    earlier = {one["part"]: one for one in old or []}
    lines = [aligned("", (*COLUMNS, *(RATIOS if earlier else ())))]
    for one in rows:
        owner, _, section = one["part"].partition(": ")
        cells = ["" if one[key] is None else format(one[key] * by, form) for key, by, form in COLUMNS.values()]
        if was := earlier.get(one["part"]):
            cells += [f"{was[key] / one[key]:.2f}" if was[key] and one[key] else "" for key in RATIOS.values()]
        lines.append(aligned(f"  {section}" if section and owner != "data" else one["part"], cells))
    return "\n".join(lines)


def aligned(name: str, cells: Iterable[str], width: int = 10) -> str:
    """A line of a table."""
    return f"{name:<32}{''.join(f'{cell:>{width}}' for cell in cells)}".rstrip()


def read_results(path: Path) -> dict[str, Any]:
    """The file of an earlier run.

    Raises:
        UserError: the file is not one of those.
    """
    try:
        found = read_json(path, "name what --out wrote", strict=False)
        return {"settings": dict(found["settings"]), "parts": list(found["parts"])}
    except UserError as error:
        raise UserError(f"--compare {error}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"--compare {path}: no measurements of benchmark.py; name what --out wrote") from error
