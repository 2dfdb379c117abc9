"""model.checkpoints.backbones, Llama out of LLaVA's shards: strictly, beside added tokens and adapters."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from model.checkpoints.backbones import load_llava
from model.config import PixDLMConfig
from model.language.tokens import ADDED_TOKENS
from model.lora import add_lora, lora_settings
from tests.model.checkpoints.states import same
from utils.runtime.errors import UserError

EXTRA = {
    "model.mm_projector.0.weight": torch.zeros(4, 4),
    "model.image_newline": torch.zeros(4),
    "model.vision_tower.vision_tower.vision_model.post_layernorm.weight": torch.zeros(4),
    "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8),
}


def llama(config: PixDLMConfig, added: int = len(ADDED_TOKENS)) -> LlamaForCausalLM:
    """Fresh, with `added` tokens after the vocabulary of the published one."""
    text = config.text_config.to_dict()
    return LlamaForCausalLM(LlamaConfig(**{**text, "vocab_size": text["vocab_size"] - len(ADDED_TOKENS) + added}))


def save_llava(folder: Path, source: LlamaForCausalLM, extra: dict[str, Tensor]) -> Path:
    """As LLaVA comes: several shards, the last one with what is not Llama's."""
    source.save_pretrained(folder, max_shard_size="30KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    save_file(extra, folder / "last.safetensors")
    index["weight_map"].update(dict.fromkeys(extra, "last.safetensors"))
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert len(set(index["weight_map"].values())) > 3
    return folder


def test_llavas_shards_fill_the_language_model(
    tmp_path: Path, tiny_config: PixDLMConfig, caplog: pytest.LogCaptureFixture
) -> None:
    source, model = llama(tiny_config, added=0), llama(tiny_config)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with caplog.at_level(logging.INFO):
        load_llava(model, save_llava(tmp_path, source, EXTRA))
    expected = source.state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):  # added tokens keep their fresh rows
        expected[name] = torch.cat([expected[name], fresh[name][-len(ADDED_TOKENS) :]])
    assert same(model.state_dict(), expected)
    assert f"Llama: {len(expected)} tensors" in caplog.text
    assert f"{len(EXTRA)} tensors not used" in caplog.text and "the projector starts fresh" in caplog.text


def test_a_llava_that_does_not_fit_lists_every_tensor(tmp_path: Path, tiny_config: PixDLMConfig) -> None:
    source, model = llama(tiny_config, added=0), llama(tiny_config)
    source.model.norm.weight = torch.nn.Parameter(torch.ones(7))
    source.lm_head.weight = torch.nn.Parameter(torch.ones(400, 32))
    del source.model.layers[1].mlp.up_proj
    save_llava(tmp_path, source, {"model.new.weight": torch.zeros(2)})
    with pytest.raises(UserError) as caught:
        load_llava(model, tmp_path)
    first, *problems = str(caught.value).splitlines()
    assert first == f"{tmp_path} does not fit this configuration:"
    assert sorted(problems) == [
        "  misshapen: lm_head.weight is (400, 32), expected (335, 32)",
        "  misshapen: model.norm.weight is (7,), expected (32,)",
        "  missing: model.layers.1.mlp.up_proj.weight",
        "  surplus: model.new.weight in last.safetensors",
    ]


def test_llava_fills_a_model_with_adapters_too(tmp_path: Path, tiny_config: PixDLMConfig) -> None:
    """Training with LoRA starts like this: the adapters are there before the weights are read."""
    source, model = llama(tiny_config, added=0), llama(tiny_config)
    add_lora(model, lora_settings(2, 4, 0.0, ["q_proj", "v_proj"]))
    load_llava(model, save_llava(tmp_path, source, EXTRA))
    ids = torch.tensor([[1, 20, 30, 40]])
    torch.testing.assert_close(model.eval()(ids).logits[..., :320], source.eval()(ids).logits)
