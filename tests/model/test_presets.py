"""model.presets: the named configurations, where they differ, and the sizes of the real models."""

from __future__ import annotations

import pytest
import torch

from model.config import SIZES, PixDLMConfig
from model.parts import PARTS, part_of
from model.pixdlm import PixDLMForCausalLM
from model.presets import NAMED_CONFIGS, named_config, native_config, release_config

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


@pytest.mark.parametrize(("name", "expected"), [("release", RELEASE_COUNTS), ("native", NATIVE_COUNTS)])
def test_a_real_model_has_its_parameters(name: str, expected: dict[str, int]) -> None:
    assert counts(named_config(name)) == expected
