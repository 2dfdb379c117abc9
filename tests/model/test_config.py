"""model.config: sizes that follow, what is refused, and what a file keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import CLIPVisionConfig, LlamaConfig

from model.config import SIZES, PixDLMConfig
from model.language.tokens import ADDED_TOKENS
from model.presets import NAMED_CONFIGS, mini_config, named_config, release_config

OWN_FIELDS = (*SIZES, "pixel_encoder", "pixel_input", "pixel_pyramid", "geometry", "clip_positions", "single_target")
OWN_FIELDS += ("mask_padded_questions", "trainable_fusion", "trainable_token_weights", "system_prompt", "lora")


def every_field_unusual() -> PixDLMConfig:
    return PixDLMConfig(
        text_config=LlamaConfig(vocab_size=77, hidden_size=24, num_attention_heads=2, pad_token_id=0),
        vision_config=CLIPVisionConfig(hidden_size=48, num_hidden_layers=8, image_size=96, patch_size=12),
        pixel_encoder={"trunk": {"embed_dim": 8, "window_spec": [8, 4]}, "neck": {"d_model": 12}},
        pixel_image_size=320,
        pixel_input="clip_tensor",
        pixel_pyramid=False,
        geometry="centre_crop",
        clip_positions="published_shift",
        mask_padded_questions=False,
        trainable_fusion=False,
        trainable_token_weights=False,
        single_target=True,
        image_grid=7,
        mask_width=48,
        mask_heads=6,
        mask_mlp_width=49,
        mask_embed_width=9,
        pixel_embed_width=50,
        mask_size=51,
        system_prompt="Look.",
        max_sequence=99,
        lora={"r": 4, "alpha": 8, "dropout": 0.1, "targets": ["q_proj"]},
    )


def test_derived_sizes() -> None:
    config = release_config()
    assert (config.clip_grid, config.pixel_grid, config.image_tokens) == (32, 64, 256)
    assert config.text_config.vocab_size == 32_015
    assert mini_config(500).text_config.vocab_size == 500 + len(ADDED_TOKENS)


# Refusals


@pytest.mark.parametrize("field", ["geometry", "pixel_input", "clip_positions"])
def test_an_unknown_choice_is_refused_by_name(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is 'middle'; known are "):
        PixDLMConfig(**{field: "middle"})


@pytest.mark.parametrize("field", SIZES)
@pytest.mark.parametrize("value", [0, -32, 32.0, "32", True, None])
def test_a_size_must_be_a_whole_number_above_zero(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field} is {value!r}, expected a whole number above 0"):
        PixDLMConfig(**{field: value})


def test_sizes_must_fit_each_other() -> None:
    with pytest.raises(ValueError, match="CLIP has 6 layers; four equal stages"):
        PixDLMConfig(vision_config={"num_hidden_layers": 6})
    with pytest.raises(ValueError, match="image_size 450 is no multiple of its patch_size 14"):
        PixDLMConfig(vision_config={"num_hidden_layers": 8, "image_size": 450, "patch_size": 14})
    with pytest.raises(ValueError, match="pixel_image_size 1000 is no multiple of 32"):
        PixDLMConfig(pixel_image_size=1000)


# Files


def test_a_saved_configuration_keeps_every_field(tmp_path: Path) -> None:
    config = every_field_unusual()
    standard = PixDLMConfig()
    assert all(getattr(config, field) != getattr(standard, field) for field in OWN_FIELDS)
    config.save_pretrained(tmp_path)
    loaded = PixDLMConfig.from_pretrained(tmp_path)
    assert {f: getattr(loaded, f) for f in OWN_FIELDS} == {f: getattr(config, f) for f in OWN_FIELDS}
    assert loaded.text_config.to_dict() == config.text_config.to_dict()
    assert loaded.vision_config.to_dict() == config.vision_config.to_dict()
    assert loaded.architectures == ["PixDLMForCausalLM"]


@pytest.mark.parametrize("name", NAMED_CONFIGS)
def test_a_dictionary_makes_the_same_configuration(name: str) -> None:
    config = named_config(name)
    assert PixDLMConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()


def test_a_file_with_a_bad_field_is_refused(tmp_path: Path) -> None:
    mini_config().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"letterbox"', '"postbox"'))
    with pytest.raises(ValueError, match="geometry is 'postbox'"):
        PixDLMConfig.from_pretrained(tmp_path)
