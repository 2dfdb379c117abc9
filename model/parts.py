"""The named parts of a model, and which of them train."""

from __future__ import annotations

from torch import nn

from model.lora import LORA_MARK

# Part, as train.py's options and log name it -> prefixes of its parameters.
PARTS = {
    "clip": ("semantic_path.",),
    "sam2": ("pixel_path.",),
    "fusion": ("fusion.",),
    "projector": ("projector.",),
    "embeddings": ("language_model.model.embed_tokens.",),
    "lm_head": ("language_model.lm_head.",),
    "seg_projection": ("seg_projection.",),
    "mask_decoder": ("mask_decoder.",),
    "language_model": ("language_model.model.layers.", "language_model.model.norm."),
}
DEFAULT_TRAINED = ("fusion", "projector", "embeddings", "lm_head", "seg_projection", "mask_decoder")


def part_of(name: str) -> str:
    """The part that a parameter belongs to; adapters are the part `lora`.

    Raises:
        ValueError: no part has such a name.
    """
    if LORA_MARK in name:
        return "lora"
    for part, prefixes in PARTS.items():
        if name.startswith(prefixes):
            return part
    raise ValueError(f"parameter {name!r} belongs to no part; add it to model.parts.PARTS")


def check_parts(parts: set[str]) -> None:
    """Raise ValueError where a part is unknown; the known ones are listed."""
    unknown = parts - {*PARTS, "lora"}
    if unknown:
        raise ValueError(f"unknown part {', '.join(sorted(unknown))}; known are {', '.join([*PARTS, 'lora'])}")


def set_trainable(model: nn.Module, parts: set[str], adapters: bool = True) -> dict[str, int]:
    """Let exactly `parts` train, and with `adapters` those too.

    Returns:
        number of trained parameters by part

    Raises:
        ValueError: an unknown part; the known ones are listed.
    """
    check_parts(parts)
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = part_of(name)
        parameter.requires_grad_(part in parts or (adapters and part == "lora"))
        if parameter.requires_grad:
            counts[part] = counts.get(part, 0) + parameter.numel()
    return counts
