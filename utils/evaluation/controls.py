"""Controls: the same evaluation with questions or pictures taken away or exchanged.

A model that scores the same under a control does not use what the control takes away.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from utils.datasets.base import Sample
from utils.runtime.files import file_hash

log = logging.getLogger(__name__)

NO_CONTROL, SHUFFLED_QUESTIONS, SWAPPED_IMAGES, BLANK_QUESTION = CONTROLS = (
    "none",
    "shuffled-questions",
    "swapped-images",
    "blank-question",
)


def shuffled_questions(samples: Sequence[Sample], seed: int) -> list[str]:
    """For every record another record's question.

    A question is exchanged for one with another text wherever the split allows it. The remaining score is what a
    model reaches without the question.
    """
    groups: dict[str, list[int]] = {}  # of records that ask the same
    for i, sample in enumerate(samples):
        groups.setdefault(_text_of(sample.question), []).append(i)
    generator, shuffled = random.Random(seed), list(groups.values())
    generator.shuffle(shuffled)
    for group in shuffled:
        generator.shuffle(group)
    order = [i for group in shuffled for i in group]
    # As far as the largest group is long: nobody then gets a question of the own group, unless it is more than half.
    step = max(map(len, shuffled), default=0)
    asked = [""] * len(samples)
    for i, other in zip(order, order[step:] + order[:step], strict=True):
        asked[i] = samples[other].question
    return asked


def _text_of(question: str) -> str:
    """A question as the model reads it, to which space is one blank."""
    return " ".join(question.split())


def other_pictures(samples: Sequence[Sample]) -> dict[Path, Path]:
    """For every picture another one of the split, whose image tokens the language model is shown in its place.

    Pictures are paired in the order of first appearance, whatever the batches are; one whose partner shows the same,
    or that has none, takes the next that differs. Empty where all show the same.
    """
    paths = list(dict.fromkeys(sample.image_path for sample in samples))
    keys = content_keys(set(paths))
    partners = {}
    for i, path in enumerate(paths):
        tried = [i ^ 1, *range(i + 1, len(paths)), *range(i)]
        other = next((j for j in tried if j < len(paths) and keys[paths[j]] != keys[path]), None)
        if other is None:
            return {}
        partners[path] = paths[other]
    return partners


def content_keys(paths: set[Path]) -> dict[Path, tuple[int, str]]:
    """What tells the contents of files apart: their size, and a hash where several have it."""
    sizes = {path: path.stat().st_size for path in paths}
    counts = Counter(sizes.values())
    return {path: (size, file_hash(path) if counts[size] > 1 else "") for path, size in sizes.items()}


def applicable_controls(samples: Sequence[Sample], seed: int) -> tuple[str, ...]:
    """Those that take something away from these samples; the log says why another one is left out."""
    found = []
    shuffled = shuffled_questions(samples, seed)
    pairs = zip(samples, shuffled, strict=True)
    kept = sum(_text_of(sample.question) == _text_of(asked) for sample, asked in pairs)
    if kept < len(samples):
        found.append(SHUFFLED_QUESTIONS)
    else:
        why = "there is one record" if kept == 1 else f"all {kept} records ask {samples[0].question!r}"
        log.warning("no control %s: %s, so that no other question can be asked", SHUFFLED_QUESTIONS, why)
    if 0 < kept < len(samples):
        log.warning(
            "control %s: %d of %d records keep their question, since too many ask the same",
            *(SHUFFLED_QUESTIONS, kept, len(samples)),
        )
    if other_pictures(samples):
        found.append(SWAPPED_IMAGES)
    else:
        log.warning("no control %s: the split shows one picture only", SWAPPED_IMAGES)
    return (*found, BLANK_QUESTION)


def asked_questions(samples: Sequence[Sample], control: str, seed: int) -> list[str | None]:
    """What is asked of each record under a control; None for a blank."""
    if control == BLANK_QUESTION:
        return [None] * len(samples)
    return shuffled_questions(samples, seed) if control == SHUFFLED_QUESTIONS else [one.question for one in samples]
