"""model.checkpoints.backbones, pretrained CLIP: the same features from every format, positions by the rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from open_clip.transformer import QuickGELU, VisionTransformer
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionModel

from model.checkpoints.backbones import load_clip
from model.config import PixDLMConfig
from model.semantic_path import resize_positions
from tests.model.checkpoints.states import same
from utils.runtime.errors import UserError

TABLE = "embeddings.position_embedding.weight"


def renamed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor.clone() for name, tensor in state.items()}


@pytest.fixture(params=["quick_gelu", "gelu"])
def open_clip_tower(tiny_config: PixDLMConfig, request: pytest.FixtureRequest) -> VisionTransformer:
    """With either activation, which the configuration then names."""
    torch.manual_seed(1)
    vision = tiny_config.vision_config
    vision.hidden_act = request.param
    activation = {"quick_gelu": QuickGELU, "gelu": torch.nn.GELU}[request.param]
    tower = VisionTransformer(
        vision.image_size, vision.patch_size, vision.hidden_size, 4, 2, 2.0, output_dim=24, act_layer=activation
    )
    with torch.no_grad():
        for parameter in tower.parameters():  # biases and norms too have to differ from their start
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return tower.eval()


def hidden_of_open_clip(tower: VisionTransformer, pixels: Tensor) -> Tensor:
    """Its last hidden states, before the last norm."""
    found: list[Tensor] = []
    handle = tower.transformer.register_forward_hook(lambda module, given, out: found.append(out))
    tower(pixels)
    handle.remove()
    return found[0]


def hidden(clip: CLIPVisionModel, pixels: Tensor) -> Tensor:
    return clip(pixels, output_hidden_states=True).hidden_states[-1]


@pytest.mark.parametrize("prefix", ["visual.", "module.visual."])
def test_open_clips_weights_give_open_clips_features(
    tmp_path: Path, tiny_config: PixDLMConfig, open_clip_tower: VisionTransformer, prefix: str
) -> None:
    text = {"text_projection": torch.zeros(2, 2), "logit_scale": torch.zeros(())}
    torch.save({**renamed(open_clip_tower.state_dict(), prefix), **text}, tmp_path / "open_clip.pt")
    clip = CLIPVisionModel(tiny_config.vision_config).eval()
    load_clip(clip, tmp_path / "open_clip.pt", tiny_config)
    pixels = torch.randn(2, 3, 64, 64)
    expected = hidden_of_open_clip(open_clip_tower, pixels)
    torch.testing.assert_close(hidden(clip, pixels), expected, atol=1e-5, rtol=1e-4)
    pooled = clip(pixels).pooler_output
    torch.testing.assert_close(pooled @ open_clip_tower.proj, open_clip_tower(pixels), atol=1e-5, rtol=1e-4)


def whole_clip(folder: Path, source: CLIPVisionModel) -> Path:
    """As openai/clip-vit-large-patch14 comes: both towers, projections and a saved arange."""
    text = CLIPTextConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=source.config.to_dict()))
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("vision_model.")}
    assert {"text_projection.weight", "visual_projection.weight", "logit_scale"} <= state.keys()
    positions = {"vision_model.embeddings.position_ids": torch.arange(17)[None]}
    save_file({**state, **renamed(source.state_dict(), "vision_model."), **positions}, folder / "model.safetensors")
    return folder


def bare_file(folder: Path, source: CLIPVisionModel) -> Path:
    torch.save(source.state_dict(), folder / "clip.bin")
    return folder / "clip.bin"


def own_folder(folder: Path, source: CLIPVisionModel) -> Path:
    source.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("save", [whole_clip, bare_file, own_folder])
def test_every_format_of_transformers_gives_the_same_tensors(
    tmp_path: Path, tiny_config: PixDLMConfig, save: Callable[[Path, CLIPVisionModel], Path]
) -> None:
    torch.manual_seed(1)
    source, clip = CLIPVisionModel(tiny_config.vision_config), CLIPVisionModel(tiny_config.vision_config)
    load_clip(clip, save(tmp_path, source), tiny_config)
    assert same(clip.state_dict(), source.state_dict())


@pytest.mark.parametrize("rule", ["class_first", "published_shift"])
@pytest.mark.parametrize("prefix", ["", "vision_model."])
def test_positions_are_resized_by_the_configurations_rule(
    tmp_path: Path, tiny_config: PixDLMConfig, rule: str, prefix: str
) -> None:
    tiny_config.clip_positions = rule
    clip = CLIPVisionModel(tiny_config.vision_config)
    state = {name: torch.randn(tensor.shape) for name, tensor in clip.state_dict().items()}
    state[TABLE] = torch.randn(7 * 7 + 1, 32)
    save_file(renamed(state, prefix), tmp_path / "model.safetensors")
    load_clip(clip, tmp_path, tiny_config)
    assert torch.equal(clip.state_dict()[TABLE], resize_positions(state[TABLE], 4, rule))
    assert same({**clip.state_dict(), TABLE: state[TABLE]}, state)


def test_a_clip_that_does_not_fit_is_refused(tmp_path: Path, tiny_config: PixDLMConfig) -> None:
    clip = CLIPVisionModel(tiny_config.vision_config)
    state = dict(clip.state_dict())
    del state["pre_layrnorm.bias"]
    torch.save({**state, "extra": torch.zeros(1)}, tmp_path / "odd.pt")
    with pytest.raises(
        UserError, match=r"odd\.pt \(CLIP vision model\).*\n  surplus: extra\n  missing: pre_layrnorm.bias$"
    ):
        load_clip(clip, tmp_path / "odd.pt", tiny_config)
    torch.save({"text_model.x": torch.zeros(1)}, tmp_path / "text.pt")
    with pytest.raises(UserError, match=r"text\.pt: no CLIP vision model in it"):
        load_clip(clip, tmp_path / "text.pt", tiny_config)
