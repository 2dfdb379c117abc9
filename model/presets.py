"""The named configurations: release, native, mini, and golden, the dimensions of the golden numbers."""

from __future__ import annotations

from collections.abc import Callable

from transformers import CLIPVisionConfig, LlamaConfig

from model.config import PixDLMConfig
from model.language.tokens import ADDED_TOKENS

LLAMA_VOCABULARY = 32_000  # pieces of Vicuna's SentencePiece model; the added tokens follow


def _vicuna_7b() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=LLAMA_VOCABULARY + len(ADDED_TOKENS),
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        pad_token_id=0,
    )


def _clip_large(image_size: int = 448) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=image_size,
        patch_size=14,
        projection_dim=768,
    )


def release_config() -> PixDLMConfig:
    """The published model: with its weights, the same numbers."""
    return PixDLMConfig(
        text_config=_vicuna_7b(),
        vision_config=_clip_large(),
        pixel_input="clip_tensor",
        pixel_pyramid=False,
        geometry="centre_crop",
        clip_positions="published_shift",
        mask_padded_questions=False,
        trainable_fusion=False,
        trainable_token_weights=False,
        single_target=True,
        mask_size=128,
    )


def native_config() -> PixDLMConfig:
    """The paper's design without the published code's deviations, for new training."""
    return PixDLMConfig(text_config=_vicuna_7b(), vision_config=_clip_large())


def mini_config(vocabulary: int = 1000) -> PixDLMConfig:
    """Everything `native`, small enough to train from scratch on a CPU.

    Two layers of the language model and 64 patches of width 64 in CLIP learned as much from 6,000 questions as 4
    layers and 256 patches of width 128, in three quarters of the time.

    Args:
        vocabulary: pieces of the tokenizer, without the added tokens.
    """
    return PixDLMConfig(
        text_config=LlamaConfig(
            vocab_size=vocabulary + len(ADDED_TOKENS),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=512,
            # 1/sqrt(hidden_size): with Llama's 0.02 attention starts so uniform that it never learns to pick a token.
            initializer_range=128**-0.5,
            rms_norm_eps=1e-5,
            pad_token_id=0,
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=4,
            num_attention_heads=2,
            image_size=160,
            patch_size=20,
        ),
        pixel_encoder={
            "trunk": {
                "embed_dim": 24,
                "num_heads": 1,
                "stages": [1, 1, 2, 1],
                "global_att_blocks": [3],
                "window_pos_embed_bkg_spatial_size": [7, 7],
                "window_spec": [8, 4, 4, 4],
            },
            # Without pretraining the fine levels need top-down features from the coarse ones.
            "neck": {"d_model": 64, "fpn_top_down_levels": [0, 1, 2, 3]},
        },
        pixel_image_size=160,
        image_grid=8,
        mask_width=64,
        mask_heads=4,
        mask_mlp_width=128,
        mask_embed_width=16,
        pixel_embed_width=64,
        mask_size=80,
        system_prompt="",
        max_sequence=256,
    )


def golden_config() -> PixDLMConfig:
    """`release` in the tiny dimensions of the golden numbers (tests/README.md)."""
    llama = LlamaConfig(
        vocab_size=LLAMA_VOCABULARY + len(ADDED_TOKENS),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        rms_norm_eps=1e-5,
        pad_token_id=0,
    )
    clip = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=448,
        patch_size=14,
    )
    trunk = {
        "embed_dim": 16,
        "num_heads": 1,
        "stages": [1, 1, 3, 1],
        "global_att_blocks": [3],
        "window_pos_embed_bkg_spatial_size": [7, 7],
        "window_spec": [8, 4, 16, 8],
    }
    sizes = {"pixel_encoder": {"trunk": trunk, "neck": {}}, "pixel_embed_width": 64}
    return PixDLMConfig.from_dict({**release_config().to_dict(), "text_config": llama, "vision_config": clip, **sizes})


NAMED_CONFIGS: dict[str, Callable[[], PixDLMConfig]] = {
    "release": release_config,
    "native": native_config,
    "mini": mini_config,
    "golden": golden_config,
}
TRAINED_CONFIGS = ("release", "native", "mini")  # golden's weights are computed from tensor names


def named_config(name: str) -> PixDLMConfig:
    """The configuration called `name`.

    Raises:
        ValueError: no such name; the known ones are listed.
    """
    if name not in NAMED_CONFIGS:
        raise ValueError(f"unknown configuration {name!r}; known are {', '.join(NAMED_CONFIGS)}")
    return NAMED_CONFIGS[name]()
