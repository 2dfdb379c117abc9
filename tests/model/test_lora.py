"""model.lora: adapters on the layers that are named, what they add, and when they drop out."""

from __future__ import annotations

import pytest
import torch
from peft.tuners.lora import LoraLayer
from transformers import LlamaForCausalLM

from model.config import PixDLMConfig
from model.lora import LORA_MARK, add_lora, lora_settings
from model.pixdlm import PixDLMForCausalLM

SETTINGS = lora_settings(8, 16, 0.0, ["q_proj", "v_proj"])
IDS = torch.tensor([[1, 20, 30, 40, 50]])


def llama(config: PixDLMConfig) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(config.text_config).eval()


@torch.no_grad()
def stir(model: torch.nn.Module) -> None:
    """Gives adapters an effect."""
    for name, parameter in model.named_parameters():
        if LORA_MARK in name:
            parameter.add_(torch.randn_like(parameter) * 0.3)


@pytest.fixture
def adapted(tiny_config: PixDLMConfig) -> PixDLMForCausalLM:
    tiny_config.lora = SETTINGS
    torch.manual_seed(0)
    return PixDLMForCausalLM(tiny_config).eval()


def test_adapters_stand_on_the_targets_of_every_layer_alone(adapted: PixDLMForCausalLM) -> None:
    found = {name for name, module in adapted.named_modules() if isinstance(module, LoraLayer)}
    attention = "language_model.model.layers.{}.self_attn.{}"
    assert found == {attention.format(i, target) for i in range(2) for target in ("q_proj", "v_proj")}
    shapes = {p.shape for name, p in adapted.named_parameters() if LORA_MARK in name}
    assert shapes == {(8, 32), (32, 8)}


def test_a_target_that_is_nowhere_is_refused(tiny_config: PixDLMConfig) -> None:
    with pytest.raises(ValueError, match="w_pack"):
        add_lora(llama(tiny_config), lora_settings(8, 16, 0.0, ["w_pack"]))


def test_a_fresh_adapter_changes_nothing(tiny_config: PixDLMConfig) -> None:
    plain, adapted = llama(tiny_config), llama(tiny_config)
    add_lora(adapted, SETTINGS)
    assert torch.equal(adapted(IDS).logits, plain(IDS).logits)


def test_an_adapter_adds_its_product_times_alpha_over_rank(tiny_config: PixDLMConfig) -> None:
    """Merged by hand: W + alpha / r * B A."""
    adapted, merged = llama(tiny_config), llama(tiny_config)
    add_lora(adapted, lora_settings(4, 12, 0.0, ["v_proj"]))
    stir(adapted)
    assert not torch.allclose(adapted(IDS).logits, merged(IDS).logits, atol=1e-3)
    for layer, plain in zip(adapted.model.layers, merged.model.layers, strict=True):
        one = layer.self_attn.v_proj
        plain.self_attn.v_proj.weight.data += 12 / 4 * one.lora_B.default.weight @ one.lora_A.default.weight
    torch.testing.assert_close(adapted(IDS).logits, merged(IDS).logits)


def test_dropout_acts_in_training_alone(tiny_config: PixDLMConfig) -> None:
    adapted = llama(tiny_config)
    add_lora(adapted, lora_settings(8, 16, 0.5, ["q_proj", "v_proj"]))
    stir(adapted)
    adapted.eval()
    assert torch.equal(adapted(IDS).logits, adapted(IDS).logits)
    adapted.train()
    assert not torch.equal(adapted(IDS).logits, adapted(IDS).logits)


def test_settings_name_their_targets_in_order() -> None:
    assert lora_settings(2, 4.0, 0.1, ["v_proj", "q_proj"]) == {
        "r": 2,
        "alpha": 4.0,
        "dropout": 0.1,
        "targets": ["q_proj", "v_proj"],
    }
