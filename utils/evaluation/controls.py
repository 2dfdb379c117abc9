"""Controls: evaluation with the questions or the pictures of other records.

A model that scores the same under a control does not use what the control takes away.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from model.pixdlm import PixDLMForCausalLM
from utils.datasets.base import Sample
from utils.evaluation.predict import fixed_batches
from utils.runtime.errors import UserError
from utils.runtime.files import file_hash

log = logging.getLogger(__name__)

NO_CONTROL, SHUFFLED_QUESTIONS, SWAPPED_IMAGES = CONTROLS = ("none", "shuffled-questions", "swapped-images")


def controlled_samples(samples: list[Sample], control: str, seed: int, batch_size: int) -> list[Sample]:
    """The samples of an evaluation under a control.

    Args:
        samples: the split.
        control: one of CONTROLS.
        seed: of shuffled questions.
        batch_size: records a batch.

    Raises:
        UserError: no record has another question to get, or a batch has a single picture, so that there is none to
            swap it with: such a control would score as none does.
    """
    if control == SHUFFLED_QUESTIONS:
        shuffled = shuffle_questions(samples, seed)
        check_other_questions(samples, shuffled)
        return shuffled
    if control == SWAPPED_IMAGES:
        check_other_pictures(samples, batch_size)
    return samples


@contextlib.contextmanager
def controlled_model(model: PixDLMForCausalLM, control: str) -> Iterator[None]:
    """Run the model under a control in the block.

    With swapped images the language model gets the image tokens of the previous picture in the batch; the mask
    decoder keeps the right picture's features.
    """
    hook = None
    if control == SWAPPED_IMAGES:
        hook = model.projector.register_forward_hook(lambda _module, _inputs, tokens: tokens.roll(1, dims=0))
    try:
        yield
    finally:
        if hook:
            hook.remove()


def shuffle_questions(samples: list[Sample], seed: int) -> list[Sample]:
    """Every record gets another record's question; pictures and targets stay.

    A question is exchanged for one with another text wherever the split allows it. The remaining score is what a
    model reaches without the question.
    """
    generator = random.Random(seed)
    order = list(range(len(samples)))
    generator.shuffle(order)
    for i in range(len(order)):
        if not _asks_the_same(samples[order[i]], samples[i]):
            continue
        for j in generator.sample(range(len(order)), len(order)):
            kept = not _asks_the_same(samples[order[j]], samples[i])
            if kept and not _asks_the_same(samples[order[i]], samples[j]):
                order[i], order[j] = order[j], order[i]
                break
    return [replace(sample, question=samples[j].question) for sample, j in zip(samples, order, strict=True)]


def _asks_the_same(one: Sample, other: Sample) -> bool:
    """Whether two questions are one to the model, to which space is one blank."""
    return one.question.split() == other.question.split()


def check_other_questions(samples: list[Sample], shuffled: list[Sample]) -> None:
    """Whether shuffling has changed what is asked; told where it has for a part of the records only.

    Raises:
        UserError: for none, since there is one record, or all ask the same.
    """
    kept = sum(_asks_the_same(one, other) for one, other in zip(samples, shuffled, strict=True))
    if kept == len(samples):
        why = "there is one record" if kept == 1 else f"all {kept} records ask {samples[0].question!r}"
        raise UserError(
            f"--control {SHUFFLED_QUESTIONS}: {why}, so that no other question can be asked and the control would "
            "control nothing; leave it out, or name a split with several questions"
        )
    if kept:
        log.warning(
            "--control %s: %d of %d records keep their question, since too many ask the same",
            *(SHUFFLED_QUESTIONS, kept, len(samples)),
        )


def check_other_pictures(samples: list[Sample], batch_size: int) -> None:
    """Check that in every batch each picture is swapped with another.

    Raises:
        UserError: one is not; the message names the smallest batch size at which all are.
    """
    keys = content_keys({sample.image_path for sample in samples})

    def fits(size: int) -> bool:
        batches = ([samples[i].image_path for i in batch] for batch in fixed_batches(samples, size))
        return all(every_picture_is_swapped([keys[path] for path in dict.fromkeys(batch)]) for batch in batches)

    if not fits(batch_size):
        size = next((size for size in range(batch_size, len(samples) + 1) if fits(size)), None)
        cure = f"use --batch-size {size}" if size else "no size of batches has them"
        raise UserError(
            f"--control {SWAPPED_IMAGES}: at --batch-size {batch_size} a batch has one picture only, or a copy beside "
            f"it, and would be shown its own; {cure}"
        )


def content_keys(paths: set[Path]) -> dict[Path, tuple[int, str]]:
    """What tells the contents of files apart: their size, and a hash where several have it."""
    sizes = {path: path.stat().st_size for path in paths}
    counts = Counter(sizes.values())
    return {path: (size, file_hash(path) if counts[size] > 1 else "") for path, size in sizes.items()}


def every_picture_is_swapped(keys: list[tuple[int, str]]) -> bool:
    """Whether each picture of a batch differs from the one before it, which it is shown in place of its own."""
    return all(one != other for one, other in zip(keys, keys[-1:] + keys[:-1], strict=True))
