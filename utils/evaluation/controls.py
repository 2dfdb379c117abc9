"""Controls: evaluation with the questions or the pictures of other records.

A model that scores the same under a control does not use what the control takes away.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import replace

from model.pixdlm import PixDLMForCausalLM
from utils.datasets.base import Sample
from utils.evaluation.predict import fixed_batches
from utils.runtime.errors import UserError

NO_CONTROL, SHUFFLED_QUESTIONS, SWAPPED_IMAGES = CONTROLS = ("none", "shuffled-questions", "swapped-images")


def controlled_samples(samples: list[Sample], control: str, seed: int, batch_size: int) -> list[Sample]:
    """The samples of an evaluation under a control.

    Args:
        samples: the split.
        control: one of CONTROLS.
        seed: of shuffled questions.
        batch_size: records a batch.

    Raises:
        UserError: a batch has a single picture, so that there is none to swap it with.
    """
    if control == SHUFFLED_QUESTIONS:
        return shuffle_questions(samples, seed)
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
        if samples[order[i]].question != samples[i].question:
            continue
        for j in generator.sample(range(len(order)), len(order)):
            kept = samples[order[j]].question != samples[i].question
            if kept and samples[order[i]].question != samples[j].question:
                order[i], order[j] = order[j], order[i]
                break
    return [replace(sample, question=samples[j].question) for sample, j in zip(samples, order, strict=True)]


def check_other_pictures(samples: list[Sample], batch_size: int) -> None:
    """Check that every batch has several pictures.

    Raises:
        UserError: one has a single picture; the message names the smallest batch size at which none has.
    """

    def fits(size: int) -> bool:
        return all(len({samples[i].image_path for i in batch}) > 1 for batch in fixed_batches(samples, size))

    if not fits(batch_size):
        size = next((size for size in range(batch_size, len(samples) + 1) if fits(size)), None)
        cure = f"use --batch-size {size}" if size else "the split has no other"
        raise UserError(
            f"--control {SWAPPED_IMAGES}: at --batch-size {batch_size} a batch has one picture only; {cure}"
        )
