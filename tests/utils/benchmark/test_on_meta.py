"""utils.benchmark.on_meta: what is counted without being computed is what a real step takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from model.config import PixDLMConfig
from model.inputs.batch import Batch
from model.losses import LossWeights
from model.pixdlm import PixDLMForCausalLM
from utils.benchmark.on_meta import LiveBytes, count_step, meta_batch, meta_model
from utils.benchmark.parts import prepare
from utils.benchmark.setup import train_args


def test_live_bytes_are_of_what_lives_at_once() -> None:
    known = torch.ones(1000)
    with LiveBytes([known]) as live:
        first = torch.ones(100)
        view = first[10:].view(9, 10)  # shares its memory
        second = known + 1
        del second, view
        third = torch.ones(50)
        assert live.now == 4 * 150
    assert live.peak == 4 * 1100
    del first, third
    assert live.now == 0


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_on_the_meta_device_is_the_real_one(
    tiny_config: PixDLMConfig, collate: Callable[..., Batch], checkpointing: bool
) -> None:
    """Operations exactly; memory but for what attention's kernels keep beside their output."""
    train = replace(train_args("release"), gradient_checkpointing=checkpointing, lora_dropout=0.0)
    weights, counts = LossWeights(grounding=0.5), []
    for model, batch in (
        (PixDLMForCausalLM(tiny_config), collate(0, 4)),
        (meta_model(tiny_config, torch.float32), meta_batch(collate(0, 4), torch.float32)),
    ):
        prepare(model, train)
        counts.append(count_step(model, batch, weights))
    real, counted = counts
    assert (counted.forward_flops, counted.backward_flops) == (real.forward_flops, real.backward_flops)
    assert counted.activations == pytest.approx(real.activations, rel=0.03)


def test_recomputed_layers_cost_time_and_save_memory(tiny_config: PixDLMConfig, collate: Callable[..., Batch]) -> None:
    tiny_config.text_config.num_hidden_layers = 4
    batch, counts = meta_batch(collate(0), torch.float32), {}
    for checkpointing in (False, True):
        model = meta_model(tiny_config, torch.float32)
        prepare(model, replace(train_args("release"), gradient_checkpointing=checkpointing))
        counts[checkpointing] = count_step(model, batch, LossWeights())
    assert counts[True].backward_flops > counts[False].backward_flops
    assert counts[True].forward_flops == counts[False].forward_flops
    assert counts[True].activations < counts[False].activations
