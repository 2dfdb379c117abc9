"""The parts that are measured: loading, the forward pass, evaluation, generation, a training step.

The model's own methods are measured: sections are wrapped around them for the time of a measurement.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from model.inputs.batch import Batch
from model.lora import add_lora, lora_settings
from model.parts import PARTS as MODEL_PARTS
from model.parts import set_trainable
from model.pixdlm import PixDLMForCausalLM
from utils.benchmark.measure import Part, Section
from utils.benchmark.setup import Setup
from utils.cli.benchmark_options import PARTS
from utils.cli.train_options import TrainArgs
from utils.evaluation.predict import score_batch
from utils.runtime.ports import free_port
from utils.runtime.precision import full_precision, precision_name
from utils.training.engine import launcher_environment, parameter_groups, start_engine
from utils.training.setup import enable_gradient_checkpointing, loss_weights, parts_to_train

# Section -> its methods and modules of PixDLMForCausalLM.
FORWARD = {
    "pixel path": ("pixel_path",),
    "semantic path": ("semantic_path", "projector"),  # with the fusion
    "prompts": ("embed_prompts",),  # question features, text conditioning, image tokens into the prompt
    "language model": ("language_model.model",),
    "masks": ("seg_states", "seg_projection", "mask_decoder"),
    "losses": ("add_losses", "seg_image_similarity", "add_grounding"),
}
GENERATION = {"vision": ("encode_images",), "prompts": ("embed_prompts",), "writing": ("language_model.generate",)}
BATCHES_PER_WORKER = 4  # of one run of the loader; more than workers prefetch
ENDLESS = 10**6  # steps of the learning-rate schedule; no measurement reaches its end


@contextmanager
def mark_sections(model: nn.Module, sections: dict[str, tuple[str, ...]], section: Section) -> Iterator[None]:
    """Measure calls of the named methods and modules as sections, in the block."""
    with ExitStack() as undo:
        for name, path in ((name, path) for name, paths in sections.items() for path in paths):
            owner_name, _, leaf = path.rpartition(".")
            owner = model.get_submodule(owner_name)
            if isinstance(getattr(owner, leaf), nn.Module):
                owner, leaf = getattr(owner, leaf), "forward"
            setattr(owner, leaf, section(name)(getattr(owner, leaf)))
            undo.callback(delattr, owner, leaf)  # uncovers the class's own method
        yield


def loading(setup: Setup) -> Iterator[Part]:
    """A batch decoded and collated in this process, and by DataLoader workers."""
    collate, size, workers = setup.collator(), setup.args.batch, setup.args.workers
    samples = setup.samples[:size]

    def collate_on_one_thread(section: Section) -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        collate(samples)
        torch.set_num_threads(threads)

    yield Part("data: decode and collate", collate_on_one_thread, size)
    if workers:
        same_batch = repeat(list(range(size)))  # without end
        batches = iter(DataLoader(samples, batch_sampler=same_batch, collate_fn=collate, num_workers=workers))
        count, name = BATCHES_PER_WORKER * workers, f"data: loader, {workers} worker{'s' * (workers > 1)}"
        yield Part(name, lambda section: [next(batches) for _ in range(count)], count * size)


def forward(setup: Setup) -> Iterator[Part]:
    """The forward pass with losses, without gradient, and its sections."""
    batch, weights = setup.batch(setup.args.batch).to(setup.device, setup.dtype), loss_weights(setup.train)

    @torch.no_grad()
    def work(section: Section) -> None:
        with mark_sections(setup.model, FORWARD, section):
            setup.model(batch, weights)

    yield Part("forward", work, len(batch))


def evaluation(setup: Setup) -> Iterator[Part]:
    """A loaded batch as eval.py evaluates it: masks, mapped to the frames, scored."""
    loaded = setup.batch(setup.args.batch)

    @torch.no_grad()
    def work(section: Section) -> None:
        with full_precision():
            with section("masks"):
                batch = loaded.to(setup.device, setup.dtype)
                logits = setup.model(batch).mask_logits
            with section("frames and scores"):
                score_batch(setup.model, setup.tokenizer, batch, logits)

    yield Part("eval", work, len(loaded))


def generation(setup: Setup) -> Iterator[Part]:
    """Generation for a batch and for one question, of a fixed length, as random weights would stop anywhere."""
    length = setup.args.new_tokens
    setup.model.language_model.generation_config.min_new_tokens = length
    for name, size in (("generate", setup.args.batch), ("generate, one at a time", 1)):
        batch = setup.batch(size, answered=False).to(setup.device, setup.dtype)

        def work(section: Section, batch: Batch = batch) -> None:
            with mark_sections(setup.model, GENERATION, section):
                setup.model.generate_answers(batch, max_new_tokens=length)

        yield Part(name, work, size)


def training(setup: Setup) -> Iterator[Part]:
    """A training step on a loaded batch; it changes the model."""
    engine, weights = start_engine_of(setup), loss_weights(setup.train)
    loaded = setup.batch(setup.args.batch, training=True)

    def work(section: Section) -> None:
        with section("forward"):
            loss = engine(loaded.to(setup.device, setup.dtype), weights).loss
        with section("backward"):
            engine.backward(loss)
        with section("optimiser"):
            engine.step()

    yield Part("train", work, len(loaded))


class TorchEngine:
    """PyTorch's AdamW behind the interface of DeepSpeed's engine; like ZeRO it keeps float32 master copies of trained
    half-precision weights."""

    def __init__(self, model: nn.Module, train: TrainArgs) -> None:
        self.forward, self.clip_norm = model, train.clip_norm
        groups = parameter_groups(model, train.weight_decay)
        self.parameters: list[nn.Parameter] = [one for group in groups for one in group["params"]]
        for group in groups:
            group["params"] = [one if one.dtype == torch.float32 else one.detach().float() for one in group["params"]]
        self.masters: list[Tensor] = [one for group in groups for one in group["params"]]
        self.optimizer = torch.optim.AdamW(groups, lr=train.lr, betas=(train.beta1, train.beta2), fused=True)

    def __call__(self, *inputs: Any) -> Any:
        return self.forward(*inputs)

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients."""
        loss.backward()

    def step(self) -> None:
        """One optimiser step on the master copies, copied back to the weights."""
        copies = [(one, master) for one, master in zip(self.parameters, self.masters, strict=True) if one is not master]
        for one, master in copies:
            master.grad, one.grad = None if one.grad is None else one.grad.float(), None
        nn.utils.clip_grad_norm_(self.masters, self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for one, master in copies:
                one.copy_(master)


def start_engine_of(setup: Setup) -> Any:
    """The engine of --engine around the model, which it puts into training mode."""
    model, train = setup.model, setup.train
    prepare(model, train)
    if setup.args.engine == "torch":
        return TorchEngine(model, train)
    launcher_environment(setup.device, free_port())
    alone = replace(
        train, batch_size=setup.args.batch, grad_accumulation=1, warmup_steps=0, precision=precision_name(setup.dtype)
    )
    return start_engine(model, alone, ENDLESS)[0]


def prepare(model: PixDLMForCausalLM, train: TrainArgs) -> None:
    """Prepare a model without adapters for training as train.py does: adapters, trained parts, checkpointing."""
    if train.lora_rank:
        dtype = model.projector.weight.dtype
        adapters = lora_settings(train.lora_rank, train.lora_alpha, train.lora_dropout, train.lora_targets)
        add_lora(model.language_model, adapters)
        model.cast(dtype)
    model.train()
    set_trainable(model, parts_to_train(model.config, set(MODEL_PARTS) if train.from_scratch else set()))
    if train.gradient_checkpointing:
        enable_gradient_checkpointing(model)


PART_MAKERS = dict(zip(PARTS, (loading, forward, evaluation, generation, training), strict=True))
