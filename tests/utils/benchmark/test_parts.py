"""utils.benchmark.parts: sections of the real forward pass, loading, generation and a training step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from model.config import PixDLMConfig
from model.inputs.batch import Batch
from model.language.tokens import PixTokenizer
from model.losses import LossWeights
from model.parts import part_of
from model.pixdlm import PixDLMForCausalLM
from utils.benchmark.measure import Part, TimedRun, flop_counter
from utils.benchmark.parts import (
    FORWARD,
    TorchEngine,
    evaluation,
    forward,
    generation,
    loading,
    mark_sections,
    prepare,
    training,
)
from utils.benchmark.setup import Setup, train_args
from utils.cli.benchmark_options import parse_benchmark
from utils.datasets.registry import load_dataset
from utils.training.engine import parameter_groups
from utils.training.setup import loss_weights

CPU = torch.device("cpu")


@pytest.fixture
def setup(tiny_config: PixDLMConfig, tokenizer: PixTokenizer, tiny_drseg: Path, tiny_model: PixDLMForCausalLM) -> Setup:
    """Two samples, a tiny model, and what trains as in mini; the losses need no frame of its own size."""
    args = parse_benchmark(["--batch", "2", "--new-tokens", "3", "--engine", "torch", "--workers", "1"])
    train = replace(train_args("mini"), mask_side=None)
    samples = load_dataset(tiny_drseg, "test")
    setup = Setup(args, train, tiny_config, tokenizer, samples, CPU, torch.float32)
    setup.model = tiny_model
    return setup


def counted(part: Part) -> dict[str, int]:
    """Operations of the whole under "", and of its sections."""
    return {name: cost.flops for name, cost in TimedRun(part, CPU, flop_counter()).costs.items()}


# Parts of the model


def test_sections_are_marked_in_the_real_forward_pass(
    tiny_model: PixDLMForCausalLM, collate: Callable[..., Batch]
) -> None:
    weights, batch, entered = LossWeights(overlap=1.0, grounding=1.0), collate(0, 4), []

    @contextmanager
    def section(name: str) -> Iterator[None]:
        entered.append(name)
        yield

    expected = tiny_model(batch, weights)
    with mark_sections(tiny_model, FORWARD, section):
        found = tiny_model(batch, weights)
    assert torch.equal(found.loss, expected.loss)
    assert list(dict.fromkeys(entered)) == list(FORWARD)
    entered.clear()
    tiny_model(batch, weights)
    assert not entered  # nothing of it stays


def test_sections_hold_all_of_the_forward_pass_and_its_losses(setup: Setup, tiny_model: PixDLMForCausalLM) -> None:
    (part,) = forward(setup)
    found = counted(part)
    whole = found.pop("")
    assert found.keys() == FORWARD.keys()
    assert sum(found.values()) == whole > 0
    with torch.no_grad():
        batch = setup.batch(2)
        assert whole == counted(Part("", lambda s: tiny_model(batch, LossWeights(grounding=1.0)), 2))[""]


def test_evaluation_is_forward_and_scoring(setup: Setup) -> None:
    (part,) = evaluation(setup)
    found = counted(part)
    assert part.samples == 2 and list(found) == ["", "masks", "frames and run lengths"]
    assert found["masks"] == found[""] > 0


def test_every_answer_has_the_length_that_was_asked_for(setup: Setup) -> None:
    steps, head = [], setup.model.language_model.lm_head
    with torch.no_grad():
        head.weight.zero_()
        head.weight[2] = 1e-3  # by itself the model would end every answer at once, or never
    head.register_forward_hook(lambda _module, _inputs, logits: steps.append(logits.shape[0]))
    for part, name, size in zip(generation(setup), ("generate", "generate, one at a time"), (2, 1), strict=True):
        found = counted(part)
        assert (part.name, part.samples, steps) == (name, size, [size] * 3)
        assert list(found) == ["", "vision", "prompts", "writing"] and all(found.values())
        steps.clear()


def test_loading_is_measured_in_this_process_and_by_workers(setup: Setup) -> None:
    threads = torch.get_num_threads()
    here, workers = loading(setup)
    assert (here.name, here.samples) == ("data: decode and collate", 2)
    assert (workers.name, workers.samples) == ("data: loader, 1 worker", 8)
    for part in (here, workers):
        assert TimedRun(part, CPU).costs[""].seconds > 0
    assert torch.get_num_threads() == threads
    (alone,) = loading(replace(setup, args=replace(setup.args, workers=0)))
    assert alone.name == here.name


# Training


def test_a_step_is_adamw_on_clipped_gradients(setup: Setup) -> None:
    plain = copy.deepcopy(setup.model)
    (part,) = training(setup)
    assert part.samples == 2 and list(TimedRun(part, CPU).costs) == ["", "forward", "backward", "optimiser"]
    prepare(plain, setup.train)
    groups = parameter_groups(plain, setup.train.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=setup.train.lr, betas=(0.9, 0.95))
    plain(setup.batch(2, training=True), loss_weights(setup.train)).loss.backward()
    nn.utils.clip_grad_norm_(plain.parameters(), setup.train.clip_norm)
    optimizer.step()
    for (name, one), other in zip(setup.model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, msg=name)


def test_half_precision_trains_float32_copies(setup: Setup) -> None:
    """A step of a ten-thousandth is lost on a weight of 1 in bfloat16, ten of them are not where copies are kept."""
    train, model = replace(setup.train, lr=1e-3, weight_decay=0.0), setup.model.cast(torch.bfloat16)
    prepare(model, train)
    engine, batch = TorchEngine(model, train), setup.batch(2, training=True).to(CPU, torch.bfloat16)
    for _ in range(10):
        engine.backward(engine(batch, loss_weights(train)).loss)
        engine.step()
    norm = model.language_model.model.norm.weight
    assert norm.dtype == torch.bfloat16 and not torch.equal(norm, torch.ones_like(norm))
    assert all(one.grad is None for one in engine.parameters)
    for one, master in zip(engine.parameters, engine.masters, strict=True):
        assert master.dtype == torch.float32 and torch.equal(one, master.bfloat16())


def test_release_trains_adapters_and_computes_layers_again(tiny_model: PixDLMForCausalLM) -> None:
    tiny_model.config.trainable_fusion = False
    prepare(tiny_model, train_args("golden"))
    trained = {part_of(name) for name, one in tiny_model.named_parameters() if one.requires_grad}
    assert {"lora", "mask_decoder", "embeddings"} <= trained and "clip" not in trained
    assert "language_model" not in trained and "fusion" not in trained
    assert tiny_model.language_model.is_gradient_checkpointing
    assert all(one.dtype == torch.float32 for one in tiny_model.parameters())
