"""model.checkpoints.backbones: fusion, CLIP and SAM2 from files of their own; CLIP's and LLaVA's formats: beside."""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.checkpoints.backbones import Backbones, load_sam2, weight_hashes
from model.checkpoints.export import save_own, save_published
from model.checkpoints.layouts import load_config
from model.checkpoints.load import load_pretrained
from model.config import PixDLMConfig
from model.language.tokens import PixTokenizer
from model.pixdlm import PixDLMForCausalLM
from model.pixel_path import PixelPath
from tests.model.checkpoints.states import equal, same
from utils.runtime.errors import UserError


def test_without_fusion_weights_it_is_explained(published: Path, release_model: PixDLMForCausalLM) -> None:
    (published / "align_stages.bin").rename(published.parent / "elsewhere.bin")
    with pytest.raises(UserError, match=r"no fusion weights\. .*--fusion neutral .*--train-only fusion"):
        load_pretrained(PixDLMForCausalLM, published)
    with pytest.raises(UserError, match=r"--fusion .*gone\.bin: no such file"):
        load_pretrained(PixDLMForCausalLM, published, backbones=Backbones(fusion=published / "gone.bin"))
    named = load_pretrained(
        PixDLMForCausalLM, published, backbones=Backbones(fusion=published.parent / "elsewhere.bin")
    )
    assert equal(named, release_model) and not named.config.neutral_fusion


def test_the_neutral_fusion_is_marked_and_leaves_clip_as_it_is(published: Path) -> None:
    (published / "align_stages.bin").unlink()
    model = load_pretrained(PixDLMForCausalLM, published, backbones=Backbones(fusion="neutral"))
    assert model.config.neutral_fusion and model.config.to_diff_dict()["neutral_fusion"]
    tokens, pixels = torch.randn(2, 16, 32), torch.randn(2, model.pixel_path.channels, 4, 4)
    for stage in range(4):
        torch.testing.assert_close(model.fusion(stage, tokens, pixels), tokens)


@pytest.mark.parametrize(("part", "option"), [("clip", "--clip"), ("sam2.pt", "--sam2")])
def test_a_missing_backbone_is_named(published: Path, part: str, option: str) -> None:
    (published / part).rename(published.parent / f"other-{part}")
    with pytest.raises(UserError, match=rf"there is no .*{re.escape(part)}.*name it with {option}"):
        load_pretrained(PixDLMForCausalLM, published)
    field = option.removeprefix("--")
    load_pretrained(PixDLMForCausalLM, published, backbones=Backbones(**{field: published.parent / f"other-{part}"}))


def test_a_fusion_file_of_something_else_is_refused(published: Path) -> None:
    torch.save({"head.weight": torch.zeros(1)}, published / "align_stages.bin")
    with pytest.raises(UserError, match=r"align_stages\.bin: 'head\.weight' is no align_stages tensor"):
        load_pretrained(PixDLMForCausalLM, published)


def test_fusion_weights_of_its_own_are_not_passed_over(published: Path) -> None:
    for fusion in ("neutral", published / "align_stages.bin"):
        with pytest.raises(UserError, match="has fusion weights of its own"):
            load_pretrained(PixDLMForCausalLM, published, backbones=Backbones(fusion=fusion))


def test_a_real_fusion_takes_the_mark_away(
    tmp_path: Path, published: Path, release_model: PixDLMForCausalLM, tokenizer: PixTokenizer
) -> None:
    (published / "align_stages.bin").rename(tmp_path / "real.bin")
    neutral = load_pretrained(PixDLMForCausalLM, published, backbones=Backbones(fusion="neutral"))
    save_published(tmp_path / "marked", neutral, tokenizer, {})
    assert load_pretrained(PixDLMForCausalLM, tmp_path / "marked").config.neutral_fusion
    (tmp_path / "marked" / "align_stages.bin").unlink()
    real = load_pretrained(PixDLMForCausalLM, tmp_path / "marked", backbones=Backbones(fusion=tmp_path / "real.bin"))
    assert equal(real, release_model) and not real.config.neutral_fusion


def test_a_folder_of_ours_without_backbones(
    tmp_path: Path, tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer
) -> None:
    save_own(tmp_path / "slim", tiny_model, tokenizer, {}, without_backbones=True)
    save_published(tmp_path / "published", tiny_model, tokenizer, {})
    with pytest.raises(UserError, match="holds no CLIP"):
        load_pretrained(PixDLMForCausalLM, tmp_path / "slim")
    files = Backbones(clip=tmp_path / "published" / "clip", sam2=tmp_path / "published" / "sam2.pt")
    assert equal(load_pretrained(PixDLMForCausalLM, tmp_path / "slim", backbones=files), tiny_model)


# SAM2


def test_sam2s_own_file_fills_the_encoder(
    tmp_path: Path, tiny_config: PixDLMConfig, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(1)
    source = PixelPath(tiny_config).encoder
    state = {f"image_encoder.{name}": tensor for name, tensor in source.state_dict().items()}
    others = {"memory_encoder.x": torch.zeros(2), "sam_mask_decoder.y": torch.zeros(3), "no_mem_embed": torch.zeros(1)}
    torch.save({"model": {**state, **others}}, tmp_path / "sam2.pt")
    encoder = PixelPath(tiny_config).encoder
    with caplog.at_level(logging.INFO):
        load_sam2(encoder, tmp_path / "sam2.pt")
    assert same(encoder.state_dict(), source.state_dict())
    assert f"SAM2: {len(state)} tensors" in caplog.text and "3 of its video part not used" in caplog.text

    name = next(iter(state))
    torch.save({"model": {k: v for k, v in state.items() if k != name}}, tmp_path / "less.pt")
    with pytest.raises(UserError, match=rf"less\.pt \(SAM2 image encoder\)(.|\n)*missing: {name[14:]}"):
        load_sam2(encoder, tmp_path / "less.pt")
    torch.save(state, tmp_path / "flat.pt")
    with pytest.raises(UserError, match=r"flat\.pt: no 'model' in it"):
        load_sam2(encoder, tmp_path / "flat.pt")


# What the weights were


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_folders_hashes_are_those_of_its_weight_files(folder: Path, tiny_config: PixDLMConfig) -> None:
    file = folder / "model.safetensors"
    first = weight_hashes(folder, tiny_config, Backbones())
    assert first == {"model.safetensors": sha256(file)}
    (folder / "training.json").write_text("{}")  # says nothing of what it computes
    assert weight_hashes(folder, tiny_config, Backbones()) == first
    state = load_file(file)
    save_file({**state, "projector.bias": state["projector.bias"] + 1}, file)
    assert weight_hashes(folder, tiny_config, Backbones()) == {"model.safetensors": sha256(file)} != first


def test_a_published_folders_hashes_name_its_backbones_too(tmp_path: Path, published: Path) -> None:
    places = {"pytorch_model.bin": "pytorch_model.bin", "clip/model.safetensors": "clip/model.safetensors"}
    places |= {"sam2/sam2.pt": "sam2.pt", "fusion/align_stages.bin": "align_stages.bin"}
    config = load_config(published)
    assert weight_hashes(published, config, Backbones()) == {n: sha256(published / p) for n, p in places.items()}
    for name, option in (("sam2.pt", "sam2"), ("align_stages.bin", "fusion")):
        other = tmp_path / f"other_{name}"
        (published / name).rename(other)
        found = weight_hashes(published, config, Backbones(**{option: other}))
        assert found[f"{option}/other_{name}"] == sha256(other) and f"{option}/{name}" not in found
        other.rename(published / name)
    (published / "align_stages.bin").unlink()
    assert "fusion" not in str(weight_hashes(published, config, Backbones(fusion="neutral")).keys())
    (published / "clip").rename(tmp_path / "away")
    with pytest.raises(UserError, match="holds no CLIP"):
        weight_hashes(published, config, Backbones(fusion="neutral"))
