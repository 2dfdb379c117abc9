"""ZeRO-3 from the start: rank 0 loads the model, and every rank receives only its shards.

Otherwise every rank would hold all weights until DeepSpeed shards them: 27 GB in float32 for 7B, in each of a
node's eight processes, and again on each GPU. Here rank 0 builds the model and the other ranks build it on the
meta device; parameters are then broadcast, sharded and freed one at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from model.config import PixDLMConfig
from model.inputs.batch import Batch
from model.language.tokens import PixTokenizer
from model.pixdlm import PixDLMForCausalLM, PixDLMOutput
from utils.runtime.distributed import broadcast_from_rank0, rank, world_size
from utils.runtime.ports import free_port
from utils.training.engine import (
    check_precision,
    import_deepspeed,
    inference_config,
    launcher_environment,
    start_inference,
)

log = logging.getLogger(__name__)

Started = tuple[PixDLMForCausalLM, PixTokenizer, dict[str, int]]


@dataclass(frozen=True)
class ModelSkeleton:
    """What the other ranks need to build rank 0's model on the meta device: everything but the parameters."""

    config: PixDLMConfig
    buffers: dict[str, Tensor]
    training_names: set[str]
    tokenizer: Path
    trained: dict[str, int]


def build_sharded(start: Callable[[], Started], dtype: torch.dtype, config: dict[str, Any]) -> Started:
    """Build a model on rank 0 and shard its parameters over all ranks.

    Args:
        start: builds or loads model, tokenizer and counts of trained parameters on the CPU; rank 0 calls it.
        dtype: of the sharded parameters.
        config: DeepSpeed's, with ZeRO stage 3.

    Returns:
        the results of `start`, on every rank

    Raises:
        UserError: raised by `start`, on every rank.
    """
    built: list[Started] = []

    def build() -> ModelSkeleton:
        built.append(start())
        return make_skeleton(*built[0])

    skeleton = broadcast_from_rank0(build if rank() == 0 else None)
    model, tokenizer, trained = built[0] if built else build_on_meta(skeleton)
    shard_parameters(model, dtype, config)
    return model, tokenizer, trained


def load_sharded(
    load: Callable[[], tuple[PixDLMForCausalLM, PixTokenizer]], device: torch.device, dtype: torch.dtype, offload: bool
) -> tuple[PixDLMForCausalLM, PixTokenizer, Callable[[Batch], PixDLMOutput]]:
    """Load a model on rank 0 and shard it over all ranks for evaluation; returns the engine for its forward pass too.

    Every rank must run the same number of forward passes, since each gathers shards from all ranks.

    Args:
        load: loads model and tokenizer on the CPU; rank 0 calls it.
        device: of this process.
        dtype: of the sharded parameters.
        offload: keep the shards in CPU memory instead of the GPUs'.

    Raises:
        UserError: raised by `load`, on every rank, or this device does not support `dtype`.
    """
    launcher_environment(device, free_port())
    check_precision(dtype)
    config = inference_config(device, dtype, offload)
    model, tokenizer, _ = build_sharded(lambda: (*load(), {}), dtype, config)
    model.to(device).eval().use_flash_attention()  # buffers; DeepSpeed has moved the parameters
    shards = sum(parameter.ds_tensor.nbytes for parameter in model.parameters())
    log.info("%.1f MiB of the weights, in each of %d processes", shards / 2**20, world_size())
    return model, tokenizer, start_inference(model, config)


def make_skeleton(model: PixDLMForCausalLM, tokenizer: PixTokenizer, trained: dict[str, int]) -> ModelSkeleton:
    """The skeleton of a model and its tokenizer."""
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return ModelSkeleton(model.config, dict(model.named_buffers()), names, tokenizer.path, trained)


def build_on_meta(skeleton: ModelSkeleton) -> Started:
    """The model of a skeleton, its parameters on the meta device."""
    with init_empty_weights(include_buffers=False):
        model = PixDLMForCausalLM(skeleton.config).train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in skeleton.training_names)
    for name, buffer in model.named_buffers():  # position codes are drawn at random
        buffer.copy_(skeleton.buffers[name])
    return model, PixTokenizer(skeleton.tokenizer, skeleton.config.system_prompt), skeleton.trained


def shard_parameters(model: nn.Module, dtype: torch.dtype, config: dict[str, Any]) -> None:
    """Shard the parameters over all ranks, module by module, with rank 0's values; in place."""
    deepspeed = import_deepspeed()
    for module in reversed(list(model.modules())):  # children first, so that only a module's own are left
        own = list(module.named_parameters(recurse=False))
        for name, parameter in own:
            if parameter.is_meta:
                empty = torch.empty(parameter.shape, dtype=dtype)  # Init broadcasts rank 0's values into it
                setattr(module, name, nn.Parameter(empty, requires_grad=parameter.requires_grad))
            else:
                parameter.data = parameter.data.to(dtype)
        if own:
            deepspeed.zero.Init(module=module, config_dict_or_path=config, dtype=dtype)
