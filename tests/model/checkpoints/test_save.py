"""model.checkpoints.save: what was saved comes back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from model.checkpoints.save import link_model, save_model
from model.config import PixDLMConfig
from model.language.tokens import PixTokenizer
from model.lora import lora_settings
from model.pixdlm import PixDLMForCausalLM, load_model


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_was_saved_is_loaded(folder: Path, tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer) -> None:
    assert sorted(content(folder)) == ["config.json", "model.safetensors", "tokenizer.model", "training.json"]
    assert json.loads((folder / "training.json").read_text()) == {"epoch": 3}
    model, loaded_tokenizer = load_model(folder)
    saved, loaded = tiny_model.state_dict(), model.state_dict()
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    assert not model.training
    assert model.config.to_dict() | {"dtype": None} == tiny_model.config.to_dict() | {"dtype": None}
    assert len(loaded_tokenizer) == len(tokenizer) and loaded_tokenizer.system == tokenizer.system
    assert loaded_tokenizer.prompt("Which car is red?") == tokenizer.prompt("Which car is red?")


def test_adapters_are_part_of_a_folder(tmp_path: Path, tiny_config: PixDLMConfig, tokenizer: PixTokenizer) -> None:
    tiny_config.lora = lora_settings(2, 4.0, 0.0, ["q_proj"])
    model = PixDLMForCausalLM(tiny_config)
    save_model(tmp_path / "last", model, tokenizer, model.state_dict(), {})
    loaded, _ = load_model(str(tmp_path / "last"))
    adapters = {name: tensor for name, tensor in loaded.state_dict().items() if "lora_" in name}
    assert len(adapters) == 4
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in adapters.items())


def test_a_folder_can_be_moved(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder, tmp_path / "elsewhere")
    load_model(tmp_path / "elsewhere")


def test_a_linked_folder_is_the_same_files_and_outlives_the_first(
    tmp_path: Path, tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer
) -> None:
    last, best = tmp_path / "last", tmp_path / "best"
    save_model(last, tiny_model, tokenizer, tiny_model.state_dict(), {"epoch": 1})
    link_model(last, best)
    assert {path.name for path in best.iterdir()} == {path.name for path in last.iterdir()}
    assert (best / "model.safetensors").samefile(last / "model.safetensors")
    before = (best / "model.safetensors").read_bytes()
    changed = {name: torch.zeros_like(tensor) for name, tensor in tiny_model.state_dict().items()}
    save_model(last, tiny_model, tokenizer, changed, {"epoch": 2})
    assert (best / "model.safetensors").read_bytes() == before
    assert not (best / "model.safetensors").samefile(last / "model.safetensors")


def test_without_hard_links_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    (tmp_path / "last").mkdir()
    (tmp_path / "last/config.json").write_text("{}")
    monkeypatch.setattr("os.link", refused)
    link_model(tmp_path / "last", tmp_path / "best")
    assert (tmp_path / "best/config.json").read_text() == "{}"
