"""LoRA on the language model, by peft; and which parts of a model train."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn
from tqdm import tqdm
from transformers import LlamaForCausalLM

LORA_MARK = "lora_"  # in the name of every tensor of an adapter

# Named parts -> prefixes of their parameters; what train.py's options and log speak of.
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


def lora_settings(rank: int, alpha: float, dropout: float, targets: list[str]) -> dict[str, Any]:
    """What `PixDLMConfig.lora` holds."""
    return {"r": rank, "alpha": alpha, "dropout": dropout, "targets": sorted(targets)}


def add_lora(language_model: LlamaForCausalLM, settings: dict[str, Any]) -> None:
    """Put adapters into the language model, in place.

    Args:
        settings: see `lora_settings`.

    Raises:
        ValueError: no module has one of the target names.
    """
    inject_adapter_in_model(
        LoraConfig(
            r=settings["r"],
            lora_alpha=settings["alpha"],
            lora_dropout=settings["dropout"],
            target_modules=list(settings["targets"]),
        ),
        language_model,
    )
    language_model.train(language_model.training)  # the injected dropout always starts in training mode


def merge_lora(model: nn.Module) -> int:
    """Merge every adapter into the matrix under it, by peft, and take the adapter away; in place.

    Returns:
        how many matrices changed

    Raises:
        ValueError: merged weights are not finite.
    """
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    for name, layer in tqdm(layers, desc="merging LoRA", unit="matrix", disable=not layers, leave=False):
        layer.merge(safe_merge=True)
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, layer.get_base_layer())
    return len(layers)


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
    raise ValueError(f"parameter {name!r} belongs to no part; add it to model.lora.PARTS")


def check_parts(parts: set[str]) -> None:
    """Raises ValueError where one of the parts is none; the known ones are listed."""
    unknown = parts - {*PARTS, "lora"}
    if unknown:
        raise ValueError(f"unknown part {', '.join(sorted(unknown))}; known are {', '.join([*PARTS, 'lora'])}")


def set_trainable(model: nn.Module, parts: set[str], adapters: bool = True) -> dict[str, int]:
    """Let exactly `parts` train, and the adapters unless told otherwise.

    Returns:
        trained parameters by part

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
