"""Controls: what a model scores when the question, or the picture, is another record's."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import replace

from model.pixdlm import PixDLMForCausalLM
from utils.datasets.base import Sample
from utils.evaluation.predict import fixed_batches
from utils.runtime.errors import UserError


def shuffle_questions(samples: list[Sample], seed: int) -> list[Sample]:
    """The control: every record gets another record's question; pictures and targets stay.

    A question is exchanged for one with another text wherever the split allows it. What is left of
    the signal is what a model knows without understanding the question.
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
    """Whether every batch has another picture to show, which `swapped_image_tokens` needs.

    Raises:
        UserError: one has a single picture; the smallest batch size at which none has is named.
    """

    def fits(size: int) -> bool:
        return all(len({samples[i].image_path for i in batch}) > 1 for batch in fixed_batches(samples, size))

    if not fits(batch_size):
        size = next((size for size in range(batch_size, len(samples) + 1) if fits(size)), None)
        cure = f"use --batch-size {size}" if size else "the split has no other"
        raise UserError(f"--swap-image-tokens: at --batch-size {batch_size} a batch has one picture only; {cure}")


@contextlib.contextmanager
def swapped_image_tokens(model: PixDLMForCausalLM) -> Iterator[None]:
    """The other control: the language model is shown the picture before in the batch, the mask decoder its own.

    A model that scores the same under it answers by the question's words alone.
    """
    hook = model.projector.register_forward_hook(lambda _module, _inputs, tokens: tokens.roll(1, dims=0))
    try:
        yield
    finally:
        hook.remove()
