"""model.parts: every parameter by the part that it belongs to, and which of them train."""

from __future__ import annotations

import pytest
import torch

from model.config import PixDLMConfig
from model.lora import lora_settings
from model.parts import DEFAULT_TRAINED, PARTS, part_of, set_trainable
from model.pixdlm import PixDLMForCausalLM

SETTINGS = lora_settings(8, 16, 0.0, ["q_proj", "v_proj"])


@pytest.fixture
def adapted(tiny_config: PixDLMConfig) -> PixDLMForCausalLM:
    tiny_config.lora = SETTINGS
    torch.manual_seed(0)
    return PixDLMForCausalLM(tiny_config).eval()


def trained(model: torch.nn.Module) -> set[str]:
    return {part_of(name) for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_every_parameter_belongs_to_one_part(adapted: PixDLMForCausalLM) -> None:
    assert {part_of(name) for name, _ in adapted.named_parameters()} == {*PARTS, "lora"}
    with pytest.raises(ValueError, match="parameter 'new_head.weight' belongs to no part"):
        part_of("new_head.weight")


@pytest.mark.parametrize("part", [*PARTS])
def test_exactly_the_parts_asked_for_train(tiny_model: PixDLMForCausalLM, part: str) -> None:
    counts = set_trainable(tiny_model, {part})
    own = [p.numel() for name, p in tiny_model.named_parameters() if name.startswith(PARTS[part])]
    assert counts == {part: sum(own)}
    assert trained(tiny_model) == {part}


def test_the_default_is_everything_small_and_both_ends_of_the_language_model(tiny_model: PixDLMForCausalLM) -> None:
    set_trainable(tiny_model, set(DEFAULT_TRAINED))
    assert trained(tiny_model) == {*PARTS} - {"clip", "sam2", "language_model"}
    assert set_trainable(tiny_model, set()) == {}


def test_an_unknown_part_is_refused_and_nothing_changes(tiny_model: PixDLMForCausalLM) -> None:
    set_trainable(tiny_model, {"fusion"})
    with pytest.raises(ValueError, match="unknown part sam, visoin; known are clip, sam2, fusion, .*, lora"):
        set_trainable(tiny_model, {"projector", "visoin", "sam"})
    assert trained(tiny_model) == {"fusion"}


def test_adapters_always_train(adapted: PixDLMForCausalLM) -> None:
    counts = set_trainable(adapted, {"projector"})
    assert trained(adapted) == {"projector", "lora"}
    assert counts["lora"] == 2 * 2 * 2 * 8 * 32
    base = adapted.language_model.model.layers[0].self_attn.q_proj.base_layer
    assert not base.weight.requires_grad


def test_the_layers_under_an_adapter_can_train_too(adapted: PixDLMForCausalLM) -> None:
    set_trainable(adapted, {"language_model", "lora"})
    assert adapted.language_model.model.layers[0].self_attn.q_proj.base_layer.weight.requires_grad
