"""model.checkpoints.tensor_names: published names into ours and back."""

from __future__ import annotations

import json

import pytest

from model.checkpoints.tensor_names import PUBLISHED_TRAINING, from_published_name, to_published_name
from model.pixdlm import PixDLMForCausalLM
from tests.training import CHECKOUT

NUMBERS = CHECKOUT / "tests" / "golden"


def test_every_published_name_has_one_of_ours_and_back() -> None:
    names = list(json.loads((NUMBERS / "tensors.json").read_text())["tensors"])
    ours = [from_published_name(name) for name in names]
    assert len(set(ours)) == len(names) == 542
    assert [to_published_name(name) for name in ours] == names
    assert [from_published_name(PUBLISHED_TRAINING + name) for name in names] == ours


def test_every_tensor_of_ours_has_a_published_name(tiny_model: PixDLMForCausalLM) -> None:
    names = list(tiny_model.state_dict())
    published = [to_published_name(name) for name in names]
    assert len(set(published)) == len(names)
    assert [from_published_name(name) for name in published] == names


@pytest.mark.parametrize(
    ("published", "here"),
    [
        ("model.layers.3.self_attn.q_proj.weight", "language_model.model.layers.3.self_attn.q_proj.weight"),
        ("model.layers.0.mlp.up_proj.weight", "language_model.model.layers.0.mlp.up_proj.weight"),
        (
            "model.mask_decoder.transformer.2.layers.1.mlp.lin2.bias",
            "mask_decoder.transformers.2.layers.1.mlp.layers.1.bias",
        ),
        ("model.vision_tower.align_stages.0.fast_proj.bias", "fusion.align.fast_proj.bias"),
        ("model.text_hidden_fcs.0.2.bias", "seg_projection.mlp.2.bias"),
        ("model.mask_decoder.level_embed.weight", "mask_decoder.level_embed.weight"),
    ],
)
def test_published_names_become_ours(published: str, here: str) -> None:
    assert from_published_name(published) == here


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(KeyError, match="model.image_newline"):
        from_published_name("model.image_newline")
