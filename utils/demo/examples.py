"""Pictures with questions that a visitor can try: of the drawn set, which is drawn small where it is not there."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from utils.datasets.registry import load_dataset
from utils.mini_drseg.generate import generate
from utils.runtime.errors import UserError

log = logging.getLogger(__name__)

DRAWN = Path("data/DRSeg-mini")
SPLIT, RECORDS = "test", 12
MOST = 6


@dataclass(frozen=True)
class Example:
    """A picture, and what to ask about it."""

    path: Path
    question: str


def find_examples(folder: Path, drawn: Path = DRAWN) -> list[Example]:
    """The first question of every kind in the drawn test set, each about another picture.

    Args:
        folder: where a few are drawn when there is no `drawn`.
        drawn: the drawn set.
    """
    try:
        if not drawn.is_dir():
            drawn = folder / "drawn"
            generate(drawn, {SPLIT: RECORDS}, workers=1)
        samples = load_dataset(drawn, SPLIT)
    except UserError as error:
        log.warning("the page has no examples: %s", error)
        return []
    found: dict[Path, Example] = {}
    kinds: dict[object, int] = {}
    for most in (1, 2):  # of each kind, until there are enough
        for sample in samples:
            kind = sample.groups.get("reasoning_type")
            if len(found) < MOST and sample.image_path not in found and kinds.get(kind, 0) < most:
                found[sample.image_path] = Example(sample.image_path, sample.question)
                kinds[kind] = kinds.get(kind, 0) + 1
    return list(found.values())
