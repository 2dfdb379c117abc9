"""LoRA adapters on the language model, by peft."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn
from tqdm import tqdm
from transformers import LlamaForCausalLM

LORA_MARK = "lora_"  # part of every adapter tensor's name


def lora_settings(rank: int, alpha: float, dropout: float, targets: list[str]) -> dict[str, Any]:
    """The dictionary that `PixDLMConfig.lora` takes."""
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
    """Merge every adapter into its base matrix, by peft, and remove the adapter; in place.

    Returns:
        number of merged matrices

    Raises:
        ValueError: merged weights are not finite.
    """
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    for name, layer in tqdm(layers, desc="merging LoRA", unit="matrix", disable=not layers, leave=False):
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, merged_layer(layer))
    return len(layers)


def merged_layer(layer: LoraLayer) -> nn.Module:
    """The layer without its adapter, which is merged into it.

    Raises:
        ValueError: merged weights are not finite.
    """
    layer.merge(safe_merge=True)
    return layer.get_base_layer()
