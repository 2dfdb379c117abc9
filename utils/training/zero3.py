"""ZeRO-3 from the first moment: one process reads the model, and each gets its share of it.

Built the plain way every process would hold all weights until DeepSpeed parts them: 27 GB in float32 for
7B, in each of a node's eight processes, and once more on each GPU. Here the first process builds the model,
the others its outline without memory; one parameter after the other is handed out, parted and let go.
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
    """What the first process tells the others of its model: all but the parameters."""

    config: PixDLMConfig
    buffers: dict[str, Tensor]
    training_names: set[str]
    tokenizer: Path
    trained: dict[str, int]


def build_sharded(start: Callable[[], Started], dtype: torch.dtype, config: dict[str, Any]) -> Started:
    """What `start` gives, called by the first process alone, its parameters parted.

    Args:
        start: builds or reads the model on the CPU.
        dtype: of the parameters afterwards.
        config: DeepSpeed's, of ZeRO stage 3.

    Raises:
        UserError: what `start` raises, on every process.
    """
    built: list[Started] = []

    def tell() -> ModelSkeleton:
        built.append(start())
        return make_skeleton(*built[0])

    skeleton = broadcast_from_rank0(tell if rank() == 0 else None)
    model, tokenizer, trained = built[0] if built else build_on_meta(skeleton)
    shard_parameters(model, dtype, config)
    return model, tokenizer, trained


def load_sharded(
    load: Callable[[], tuple[PixDLMForCausalLM, PixTokenizer]], device: torch.device, dtype: torch.dtype, offload: bool
) -> tuple[PixDLMForCausalLM, PixTokenizer, Callable[[Batch], PixDLMOutput]]:
    """What `load` gives, parted over all processes for evaluation, and the engine that runs its forward pass.

    Every process must run as many forward passes: in each the parts come from all of them.

    Args:
        load: reads the model on the CPU; only the first process does.
        device: of this process.
        dtype: of the parameters afterwards.
        offload: keep the parts in the CPU's memory instead of the GPUs'.

    Raises:
        UserError: what `load` raises, on every process, or this device cannot compute in `dtype`.
    """
    launcher_environment(device, free_port())
    check_precision(dtype)
    config = inference_config(device, dtype, offload)
    model, tokenizer, _ = build_sharded(lambda: (*load(), {}), dtype, config)
    model.to(device).eval().use_flash_attention()  # DeepSpeed has seen to the parameters, not to the buffers
    own = sum(parameter.ds_tensor.nbytes for parameter in model.parameters())
    log.info("%.1f MiB of the weights, in each of %d processes", own / 2**20, world_size())
    return model, tokenizer, start_inference(model, config)


def make_skeleton(model: PixDLMForCausalLM, tokenizer: PixTokenizer, trained: dict[str, int]) -> ModelSkeleton:
    """Enough to build the same model elsewhere."""
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return ModelSkeleton(model.config, dict(model.named_buffers()), names, tokenizer.path, trained)


def build_on_meta(skeleton: ModelSkeleton) -> Started:
    """The same model, its parameters on the meta device."""
    with init_empty_weights(include_buffers=False):
        model = PixDLMForCausalLM(skeleton.config).train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in skeleton.training_names)
    for name, buffer in model.named_buffers():  # position codes are drawn at random
        buffer.copy_(skeleton.buffers[name])
    return model, PixTokenizer(skeleton.tokenizer, skeleton.config.system_prompt), skeleton.trained


def shard_parameters(model: nn.Module, dtype: torch.dtype, config: dict[str, Any]) -> None:
    """Part the parameters over all processes, module by module, with the first process's values; in place."""
    deepspeed = import_deepspeed()
    for module in reversed(list(model.modules())):  # children first: of its own parameters alone there is then a rest
        own = list(module.named_parameters(recurse=False))
        for name, parameter in own:
            if parameter.is_meta:
                room = torch.empty(parameter.shape, dtype=dtype)
                setattr(module, name, nn.Parameter(room, requires_grad=parameter.requires_grad))
            else:
                parameter.data = parameter.data.to(dtype)
        if own:
            deepspeed.zero.Init(module=module, config_dict_or_path=config, dtype=dtype)
