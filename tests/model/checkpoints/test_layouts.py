"""model.checkpoints.layouts: the architecture of a folder, whoever wrote it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects

from model.checkpoints import layouts
from model.checkpoints.export import published_fields
from model.checkpoints.layouts import load_config
from model.config import PixDLMConfig
from model.pixdlm import load_model
from model.presets import release_config
from utils.runtime.errors import UserError


def test_a_config_as_published_gives_release_in_its_dimensions(tmp_path: Path) -> None:
    fields = {"architectures": ["PixDLMForCausalLM"], "model_type": "llava", "hidden_size": 512, "vocab_size": 32_015}
    (tmp_path / "config.json").write_text(json.dumps(fields | {"num_hidden_layers": 3, "mm_hidden_size": 1024}))
    torch.save({"model.norm.weight": torch.zeros(512)}, tmp_path / "pytorch_model.bin")
    config = load_config(tmp_path)
    assert (config.geometry, config.text_config.num_hidden_layers, config.pixel_embed_width) == ("centre_crop", 3, 512)
    assert config.text_config.vocab_size == 32_015 and config.lora is None


def test_published_fields_alone_give_release(tmp_path: Path) -> None:
    """As the published config.json has them, without this project's own entry."""
    fields = published_fields(release_config())
    del fields["pixdlm"]
    (tmp_path / "config.json").write_text(json.dumps(fields, default=str))
    torch.save({"model.norm.weight": torch.zeros(4)}, tmp_path / "pytorch_model.bin")
    assert load_config(tmp_path).to_dict() == release_config().to_dict()
    fields |= {"hidden_size": 512, "num_attention_heads": 8, "rope_theta": 5e5}
    fields = {name: value for name, value in fields.items() if name not in ("head_dim", "num_key_value_heads")}
    (tmp_path / "config.json").write_text(json.dumps(fields, default=str))
    llama = load_config(tmp_path).text_config
    assert (llama.head_dim, llama.num_key_value_heads, llama.rope_parameters["rope_theta"]) == (64, 8, 5e5)
    (tmp_path / "config.json").write_text(json.dumps(fields | {"rope_scaling": {"factor": 2}}, default=str))
    with pytest.raises(UserError, match="rope_scaling is .* not supported"):
        load_config(tmp_path)


def test_one_without_any_config_is_release(tmp_path: Path) -> None:
    torch.save({"base_model.model.model.norm.weight": torch.zeros(4)}, tmp_path / "pytorch_model.bin")
    assert load_config(tmp_path).text_config.hidden_size == 4096


def test_a_missing_folder_and_one_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none: no such model folder; .*PixDLM/mini"):
        load_model(tmp_path / "none")
    with pytest.raises(UserError, match=r"no config\.json in it"):
        load_model(tmp_path)


def test_the_configuration_alone_can_be_read(folder: Path, tiny_config: PixDLMConfig) -> None:
    (folder / "model.safetensors").unlink()
    config = load_config(folder)
    assert config.pixel_encoder == tiny_config.pixel_encoder
    assert config.text_config.hidden_size == 32 and config.vision_config.image_size == 64


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation"])
def test_a_folder_does_not_choose_how_its_model_attends(tmp_path: Path, tiny_config: PixDLMConfig, name: str) -> None:
    """transformers would fetch a kernel of that name from the hub."""
    fields = {**tiny_config.to_dict(), name: "somebody/kernel"}
    (tmp_path / "config.json").write_text(json.dumps(fields, default=str))
    config = load_config(tmp_path)
    assert config.image_grid == tiny_config.image_grid and config._attn_implementation is None


def test_of_a_repository_only_what_is_read_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Matched as the hub does it, whose `*` takes in folders."""
    there = ["config.json", "tokenizer.model", "clip/config.json", "clip/pytorch_model.bin", "sam2.pt", "README.md"]
    there += ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    others = ["pytorch_model.bin", "model.fp16.safetensors", "checkpoint-500/model.safetensors", "onnx/config.json"]
    asked: list[list[str]] = []

    def fetch(name: str, allow_patterns: list[str]) -> str:
        asked.append(list(filter_repo_objects([*there, *others], allow_patterns=allow_patterns)))
        for file in asked[-1]:
            (tmp_path / file).parent.mkdir(exist_ok=True, parents=True)
            (tmp_path / file).write_text("{}")
        return str(tmp_path)

    monkeypatch.setattr(layouts, "snapshot_download", fetch)
    assert layouts.local_folder("somebody/pixdlm", {}) == tmp_path
    assert sorted(asked[-1]) == sorted({*there} - {"README.md"}) and "clip/pytorch_model.bin" not in asked[0]
