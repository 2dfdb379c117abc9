"""The benchmark's results: rows to JSON and to a table, and compared with those of another run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from utils.benchmark.measure import Row
from utils.runtime.errors import UserError

FORMAT = 1  # raise it when the meaning of a field changes
NAME_WIDTH = 32
COLUMNS = ("ms/sample", "samples/s", "GFLOP", "of peak", "peak MiB", "added")
SAME = ("config", "batch", "dtype", "threads", "device", "new_tokens")  # what two runs should have in common


def record(row: Row, peak: float) -> dict[str, Any]:
    """A row for JSON, with what follows from it.

    Args:
        row: of a part or section.
        peak: operations a second that the machine reaches.
    """
    return {
        "part": row.part,
        "samples": row.samples,
        "seconds_per_sample": row.seconds / row.samples,
        "samples_per_second": row.samples / row.seconds,
        "fastest_per_sample": row.fastest / row.samples,
        "slowest_per_sample": row.slowest / row.samples,
        "flops_per_sample": None if row.flops is None else row.flops / row.samples,
        "share_of_peak": None if row.flops is None else row.flops / row.seconds / peak,
        "memory_peak_bytes": row.memory_peak,
        "memory_added_bytes": row.memory_added,
    }


def table(parts: list[dict[str, Any]]) -> str:
    """Aligned text, sections below their part."""
    lines = [aligned("", COLUMNS)]
    for one in parts:
        flops, share = one["flops_per_sample"], one["share_of_peak"]
        cells = (
            f"{one['seconds_per_sample'] * 1000:.1f}",
            f"{one['samples_per_second']:.2f}",
            f"{flops / 1e9:.2f}" if flops is not None else "",
            f"{share:.1%}" if share is not None else "",
            mebibytes(one["memory_peak_bytes"]),
            mebibytes(one["memory_added_bytes"]),
        )
        lines.append(aligned(label(one["part"]), cells))
    return "\n".join(lines)


def aligned(name: str, cells: Iterable[str], width: int = 10) -> str:
    """A line of a table."""
    return f"{name:<{NAME_WIDTH}}{''.join(f'{cell:>{width}}' for cell in cells)}".rstrip()


def mebibytes(count: int | None) -> str:
    """Nothing where it is not known."""
    return "" if count is None else f"{count / 2**20:.0f}"


def label(part: str) -> str:
    """A part's name; of a section its own, set in."""
    owner, colon, section = part.partition(": ")
    return f"  {section}" if colon and owner != "data" else part


def read_results(path: Path) -> dict[str, Any]:
    """What an earlier run wrote.

    Raises:
        UserError: the file is not one of those.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--compare {path}: cannot be read ({error}); name what an earlier --out wrote") from error
    if not isinstance(found, dict) or found.get("benchmark") != FORMAT or not isinstance(found.get("parts"), list):
        raise UserError(f"--compare {path}: no results of benchmark.py in format {FORMAT}; make them anew with --out")
    return found


def comparison(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Ratios old/new of time and memory for what both have; what only one has; how the runs differ."""
    before, after = ({one["part"]: one for one in results["parts"]} for results in (old, new))
    lines = [aligned("old/new", ("old ms", "new ms", "time", "memory"))]
    for part in after:
        if part in before:
            lines.append(ratios(before[part], after[part]))
    for title, only in (("only in the old run", before.keys() - after), ("only in the new run", after.keys() - before)):
        if only:
            lines.append(f"{title}: {', '.join(sorted(only))}")
    lines += [
        f"the runs differ in {name}: {was!r} then, {now!r} now"
        for name in SAME
        if (was := old["settings"].get(name)) != (now := new["settings"].get(name))
    ]
    return "\n".join(lines)


def ratios(old: dict[str, Any], new: dict[str, Any]) -> str:
    """A part's line: above 1 the new run is the better one."""
    was, now = old["seconds_per_sample"], new["seconds_per_sample"]
    cells = [f"{was * 1000:.1f}", f"{now * 1000:.1f}", f"{was / now:.2f}"]
    if old["memory_peak_bytes"] and new["memory_peak_bytes"]:
        cells.append(f"{old['memory_peak_bytes'] / new['memory_peak_bytes']:.2f}")
    return aligned(label(new["part"]), cells)
