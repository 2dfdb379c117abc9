"""What is measured: loading, the forward pass by its parts, forced evaluation, generation, a training step.

Nothing of the model is written again here. Sections are marked in the model's own methods while they are
measured, so that what is timed is what runs elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from model.losses import LossWeights
from model.pixdlm import PixDLMForCausalLM
from utils.benchmark.measure import Part, Section
from utils.benchmark.setup import Setup
from utils.benchmark.training import TrainingStep
from utils.datasets.loading.collate import Collator
from utils.evaluation.predict import score_batch
from utils.runtime.precision import full_precision
from utils.training.setup import loss_weights

# Section -> the methods and modules of PixDLMForCausalLM that make it.
FORWARD = {
    "pixel path": ("pixel_path",),
    "semantic path": ("semantic_path", "projector"),  # with the fusion
    "prompts": ("embed_prompts",),  # question features, text conditioning, image tokens into the prompt
    "language model": ("language_model.model",),
    "masks": ("seg_states", "seg_projection", "mask_decoder"),
    "losses": ("add_losses", "seg_image_similarity", "add_grounding"),
}
GENERATION = {"vision": ("see",), "prompts": ("embed_prompts",), "writing": ("language_model.generate",)}
LOADED_AHEAD = 4  # batches a worker that one run of the loader takes, so that its start does not count

GENERATE_MANY, GENERATE_ONE = "generate", "generate, one at a time"


@contextmanager
def marked(model: nn.Module, sections: dict[str, tuple[str, ...]], section: Section) -> Iterator[None]:
    """While it lasts, calls of the methods and modules named are sections."""
    changed = []
    for name, places in sections.items():
        for place in places:
            owner, _, leaf = place.rpartition(".")
            owner = model.get_submodule(owner)
            if isinstance(getattr(owner, leaf), nn.Module):
                owner, leaf = getattr(owner, leaf), "forward"
            setattr(owner, leaf, within(section, name, getattr(owner, leaf)))
            changed.append((owner, leaf))
    try:
        yield
    finally:
        for owner, leaf in changed:
            delattr(owner, leaf)  # the class's own shows again


def within(section: Section, name: str, function: Any) -> Any:
    """`function`, called in a section."""

    def called(*args: Any, **kwargs: Any) -> Any:
        with section(name):
            return function(*args, **kwargs)

    return called


def loading(setup: Setup) -> Iterator[Part]:
    """A batch decoded and collated in this process, and by workers as fast as they can."""
    collate, size = Collator(setup.config, setup.tokenizer), setup.args.batch
    samples = setup.samples[:size]

    def one_worker(section: Section) -> None:
        with one_thread():
            collate(samples)

    yield Part("data: decode and collate", one_worker, size, counted=False)
    workers = setup.args.workers
    if workers:
        forever = iter(DataLoader(samples, batch_sampler=Forever(size), collate_fn=collate, num_workers=workers))
        runs = LOADED_AHEAD * workers
        name = f"data: loader, {workers} worker{'s' * (workers > 1)}"
        yield Part(name, lambda section: [next(forever) for _ in range(runs)], runs * size, counted=False)


@contextmanager
def one_thread() -> Iterator[None]:
    """While it lasts, PyTorch has one thread, as in a DataLoader's worker."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Forever:
    """The same batch again and again."""

    def __init__(self, size: int) -> None:
        self.batch = list(range(size))

    def __iter__(self) -> Iterator[list[int]]:
        while True:
            yield self.batch


def forward(setup: Setup, model: PixDLMForCausalLM) -> Part:
    """The forward pass with losses, without gradient, each of its parts by itself."""
    batch = setup.batch(setup.args.batch).to(setup.device, setup.dtype)
    weights: LossWeights = loss_weights(setup.train)

    @torch.no_grad()
    def work(section: Section) -> None:
        with marked(model, FORWARD, section):
            model(batch, weights)

    return Part("forward", work, len(batch))


def evaluation(setup: Setup, model: PixDLMForCausalLM) -> Part:
    """A batch as eval.py runs it once it is loaded: masks, mapped to the frames, scored."""
    loaded = setup.batch(setup.args.batch)

    @torch.no_grad()
    def work(section: Section) -> None:
        with full_precision():
            with section("masks"):
                batch = loaded.to(setup.device, setup.dtype)
                logits = model(batch).mask_logits
            with section("frames and scores"):
                score_batch(model, setup.tokenizer, batch, logits)

    return Part("eval", work, len(loaded))


def generation(setup: Setup, model: PixDLMForCausalLM) -> Iterator[Part]:
    """Answers of a fixed length, written for a batch and for one question."""
    for name, size in ((GENERATE_MANY, setup.args.batch), (GENERATE_ONE, 1)):
        yield answers(setup, model, name, size)


def answers(setup: Setup, model: PixDLMForCausalLM, name: str, size: int) -> Part:
    """`size` questions answered together."""
    batch = setup.batch(size, answered=False).to(setup.device, setup.dtype)
    length = setup.args.new_tokens

    def work(section: Section) -> None:
        with fixed_length(model, length), marked(model, GENERATION, section):
            model.generate_answers(batch, max_new_tokens=length)

    return Part(name, work, size)


@contextmanager
def fixed_length(model: PixDLMForCausalLM, tokens: int) -> Iterator[None]:
    """While it lasts, no answer ends before it has so many tokens; random weights would end it anywhere."""
    settings = model.language_model.generation_config
    before, settings.min_new_tokens = settings.min_new_tokens, tokens
    try:
        yield
    finally:
        settings.min_new_tokens = before


def training(step: TrainingStep) -> Part:
    """A step of train.py, once its batch is loaded."""

    def work(section: Section) -> None:
        with section("forward"):
            step.forward()
        with section("backward"):
            step.backward()
        with section("optimiser"):
            step.update()

    return Part("train", work, step.samples)
