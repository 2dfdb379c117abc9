"""The configuration: named ones, what is refused, what a file keeps, and the sizes of the real models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig

from model.config import SIZES, PixDLMConfig
from model.language.tokens import ADDED_TOKENS
from model.parts import PARTS, part_of
from model.pixdlm import PixDLMForCausalLM
from model.presets import NAMED_CONFIGS, mini_config, named_config, native_config, release_config

OWN_FIELDS = (*SIZES, "pixel_encoder", "pixel_input", "pixel_pyramid", "geometry", "clip_positions", "single_target")
OWN_FIELDS += ("mask_padded_questions", "trainable_fusion", "trainable_token_weights", "system_prompt", "lora")

# CLIP's count includes its unused class row and post-norm.
SHARED_COUNTS = {
    "clip": 303_966_208,
    "sam2": 212_703_280,
    "fusion": 8_750_851,
    "projector": 1024 * 4096 + 4096,
    "embeddings": 32_015 * 4096,
    "lm_head": 32_015 * 4096,
    "language_model": 6_476_271_616,
}
RELEASE_COUNTS = {**SHARED_COUNTS, "seg_projection": 17_830_144, "mask_decoder": 13_565_872}
NATIVE_COUNTS = {
    **SHARED_COUNTS,
    "seg_projection": 17_830_144 + 9,  # the token weights
    "mask_decoder": 13_565_872 - 262_912 + 3,  # no upsampling between levels; the scale weights
}


def counts(config: PixDLMConfig) -> dict[str, int]:
    """Parameters by part, without memory for any."""
    with torch.device("meta"):
        model = PixDLMForCausalLM(config)
    found = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        found[part_of(name)] += parameter.numel()
    return found


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


@pytest.mark.parametrize("name", NAMED_CONFIGS)
def test_a_named_configuration_builds(name: str) -> None:
    config = named_config(name)
    assert config.architectures == ["PixDLMForCausalLM"]
    assert config.model_type == "pixdlm"
    assert not config.tie_word_embeddings


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(ValueError, match="unknown configuration 'relaese'; known are release, native, mini"):
        named_config("relaese")


def test_release_and_native_differ_where_the_design_says() -> None:
    release, native = release_config(), native_config()
    assert {f: (getattr(release, f), getattr(native, f)) for f in OWN_FIELDS if f != "pixel_encoder"} == {
        **{f: (getattr(native, f),) * 2 for f in OWN_FIELDS if f != "pixel_encoder"},
        "pixel_input": ("clip_tensor", "frame"),
        "pixel_pyramid": (False, True),
        "geometry": ("centre_crop", "letterbox"),
        "clip_positions": ("published_shift", "class_first"),
        "mask_padded_questions": (False, True),
        "trainable_fusion": (False, True),
        "trainable_token_weights": (False, True),
        "single_target": (True, False),
        "mask_size": (128, 256),
    }
    assert release.text_config.to_dict() == native.text_config.to_dict()
    assert release.vision_config.to_dict() == native.vision_config.to_dict()


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


# Sizes of the real models


@pytest.mark.parametrize(("name", "expected"), [("release", RELEASE_COUNTS), ("native", NATIVE_COUNTS)])
def test_a_real_model_has_its_parameters(name: str, expected: dict[str, int]) -> None:
    assert counts(named_config(name)) == expected
