"""Tensor names of the published checkpoint, transformers' CLIP and open_clip, mapped to ours."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable

from torch import Tensor

from model.config import PixDLMConfig
from model.lora import LORA_MARK

# Prefix of a published name -> our prefix; the first match is taken.
PUBLISHED_NAMES = (
    ("model.embed_tokens.", "language_model.model.embed_tokens."),
    ("model.layers.", "language_model.model.layers."),
    ("model.norm.", "language_model.model.norm."),
    ("lm_head.", "language_model.lm_head."),
    ("model.vision_tower.slow_vision_tower.", "pixel_path.encoder."),
    ("model.vision_tower.fast_vision_tower.vision_tower.vision_model.", "semantic_path.clip."),
    ("model.vision_tower.align_stages_latent.", "fusion.stitches."),
    ("model.vision_tower.align_stages.0.", "fusion.align."),
    ("model.mm_projector.", "projector."),
    ("model.prompt_encoder.", "mask_decoder.prompt_encoder."),
    ("model.mask_decoder.transformer.", "mask_decoder.transformers."),
    ("model.mask_decoder.output_upscaling.", "mask_decoder.upscaling."),
    ("model.mask_decoder.upsample_2x.", "mask_decoder.level_upsampling."),
    ("model.mask_decoder.output_hypernetworks_mlps.", "mask_decoder.hypernetworks."),
    ("model.mask_decoder.iou_prediction_head.", "mask_decoder.iou_head."),
    ("model.mask_decoder.pe1.", "mask_decoder.positions."),
    ("model.mask_decoder.", "mask_decoder."),
    ("model.sam_to_embed_conv.", "mask_decoder.pixel_neck.embed."),
    ("model.image_feature_neck.", "mask_decoder.pixel_neck.neck."),
    ("model.text_hidden_fcs.0.", "seg_projection.mlp."),
    ("model.seg_token_weights", "seg_projection.token_weights"),  # `native` alone: plain numbers as published
)
PUBLISHED_TRAINING = "base_model.model."  # what peft put before every name of a training checkpoint
OWN_PREFIXES = ("language_model.", "pixel_path.", "semantic_path.", "fusion.", "projector.", "seg_projection.",
                "mask_decoder.")  # fmt: skip
# In the published decoder alone: its feed-forward layers have names of their own.
PUBLISHED_MLP = ((".mlp.lin1.", ".mlp.layers.0."), (".mlp.lin2.", ".mlp.layers.1."))
CLIP_DERIVED = re.compile(r"(^|\.)position_ids$")  # an arange, saved by old transformers
LLAVA_UNUSED = ("model.vision_tower.", "model.mm_projector.", "model.image_newline")
ROTARY_DERIVED = re.compile(r"\.rotary_emb\.inv_freq$")
OPEN_CLIP_NAMES = (
    ("class_embedding", "embeddings.class_embedding"),
    ("positional_embedding", "embeddings.position_embedding.weight"),
    ("conv1.", "embeddings.patch_embedding."),
    ("ln_pre.", "pre_layrnorm."),
    ("ln_post.", "post_layernorm."),
    ("transformer.resblocks.", "encoder.layers."),
)
OPEN_CLIP_LAYER = (
    (".ln_1.", ".layer_norm1."),
    (".ln_2.", ".layer_norm2."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
    (".attn.out_proj.", ".self_attn.out_proj."),
)


def from_published_name(name: str) -> str:
    """Our name of a tensor of the published checkpoint; one of our names stays as it is.

    A training checkpoint's prefix is removed. LoRA tensors keep peft's names.

    Raises:
        KeyError: no rule knows the name.
    """
    name = name.removeprefix(PUBLISHED_TRAINING)
    if name.startswith(OWN_PREFIXES):
        return name
    for old, new in PUBLISHED_NAMES:
        if name.startswith(old):
            renamed = new + name[len(old) :]
            break
    else:
        raise KeyError(name)
    return _replace_in_decoder(renamed, PUBLISHED_MLP)


def to_published_name(name: str) -> str:
    """The published name of one of our tensors; the inverse of `from_published_name`.

    Raises:
        KeyError: the published layout has no such tensor.
    """
    # the longest matching prefix, since the table is ordered for the other direction
    for old, new in sorted(PUBLISHED_NAMES, key=lambda pair: -len(pair[1])):
        if name.startswith(new):
            renamed = _replace_in_decoder(name, [(there, here) for here, there in PUBLISHED_MLP])
            return old + renamed[len(new) :]
    raise KeyError(name)


def _replace_in_decoder(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    if name.startswith("mask_decoder."):
        for old, new in pairs:
            name = name.replace(old, new)
    return name


def select_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose name starts with `prefix`, under the rest of their name."""
    return {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}


def from_transformers_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The vision tower of a transformers CLIP checkpoint, without the prefix `vision_model.` that transformers 5
    dropped."""
    vision = select_prefix(state, "vision_model.") or state
    return {name: tensor for name, tensor in vision.items() if not CLIP_DERIVED.search(name)}


def from_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The vision tower of an open_clip checkpoint under transformers' names.

    The joint `in_proj` of a layer becomes q_proj, k_proj and v_proj; the final projection into the
    space shared with text is not part of the vision model and is dropped.
    """
    marks = ("module.visual.", "visual.")
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        mark = next((m for m in marks if name.startswith(m)), None)
        if mark is None or name == f"{mark}proj":
            continue
        name = _replace_prefix(name[len(mark) :], OPEN_CLIP_NAMES)
        for old, new in OPEN_CLIP_LAYER:
            name = name.replace(old, new)
        joint = re.fullmatch(r"(.*)\.attn\.in_proj_(weight|bias)", name)
        if joint:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                out[f"{joint[1]}.self_attn.{part}_proj.{joint[2]}"] = piece.clone()
        else:
            out[name] = tensor
    return out


def _replace_prefix(name: str, table: Iterable[tuple[str, str]]) -> str:
    for old, new in table:
        if name.startswith(old):
            return new + name[len(old) :]
    return name


def to_own_name(name: str, config: PixDLMConfig) -> str:
    """Our name of a tensor, published or ours; an unknown name is kept.

    The matrix under an adapter is `q_proj.base_layer.weight` in newer peft, `q_proj.weight` in older and
    in a model without.
    """
    with contextlib.suppress(KeyError):
        name = from_published_name(name)
    if LORA_MARK in name or not name.startswith("language_model."):
        return name
    owner, _, leaf = name.replace(".base_layer.", ".").rpartition(".")
    adapted = config.lora and owner.rpartition(".")[2] in config.lora["targets"]
    return f"{owner}.base_layer.{leaf}" if adapted else f"{owner}.{leaf}"
