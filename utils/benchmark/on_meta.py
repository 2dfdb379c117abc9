"""Operations and activations of a training step, counted on the meta device, where tensors have no data.

The model's own forward and backward pass run. Tensors whose values decide shapes (ids, labels, image index) are
real; pixels, weights and masks are on the meta device.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from transformers import AttentionInterface

from model.config import PixDLMConfig
from model.inputs.batch import Batch
from model.losses import LossWeights
from model.pixdlm import PixDLMForCausalLM
from utils.benchmark.measure import flop_counter

COUNTED = "counted_on_meta"  # transformers' name for the attention below


class StepCount(NamedTuple):
    """Operations of a training step (recomputed layers count as backward), and peak bytes of its activations: all
    tensors but weights, buffers and the batch."""

    forward_flops: float
    backward_flops: float
    activations: int


def meta_model(config: PixDLMConfig, dtype: torch.dtype) -> PixDLMForCausalLM:
    """A model whose parameters and buffers are on the meta device."""
    with init_empty_weights(include_buffers=False):
        model = PixDLMForCausalLM(copy.deepcopy(config))  # set_attn_implementation changes it
    model.cast(dtype).to("meta")
    # transformers reads the values of masks for its own attentions, which meta tensors do not have
    model.language_model.set_attn_implementation(COUNTED)
    return model


def meta_batch(batch: Batch, dtype: torch.dtype) -> Batch:
    """A batch whose pixels and masks are on the meta device."""
    real, meta = batch.to("cpu", dtype), batch.to("meta", dtype)
    without_data = ("clip_pixels", "sam_pixels", "question_mask", "masks")
    return replace(real, **{name: getattr(meta, name) for name in without_data})


def count_step(model: PixDLMForCausalLM, batch: Batch, weights: LossWeights) -> StepCount:
    """Count forward and backward pass of a model in training mode; model and batch are both on meta or both real."""
    live = LiveBytes([*model.parameters(), *model.buffers(), *batch.masks, batch.clip_pixels, batch.sam_pixels])
    model.zero_grad()
    with OnMeta(), live:
        with flop_counter() as forward:
            loss = model(batch, weights).loss
        with flop_counter() as backward:
            loss.backward()
    model.zero_grad()
    return StepCount(forward.get_total_flops(), backward.get_total_flops(), live.peak)


class LiveBytes(TorchDispatchMode):
    """Current and peak bytes of all tensors made in the block; those of `known` are not counted."""

    def __init__(self, known: Iterable[Tensor | None]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known = [tensor.untyped_storage() for tensor in known if tensor is not None]
        self.storages = {id(storage) for storage in self.known}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        made = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self.add, made)
        return made

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage until it is freed."""
        storage = tensor.untyped_storage()
        if id(storage) not in self.storages:
            self.storages.add(id(storage))
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.remove, id(storage), storage.nbytes())

    def remove(self, key: int, size: int) -> None:
        """Stop counting a storage, once it is freed."""
        self.storages.discard(key)
        self.now -= size


class OnMeta(TorchFunctionMode):
    """Makes functions work on meta tensors: attention by the GPU's fused kernel, and real index tensors.

    Calls on real tensors are unchanged.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if args and isinstance(args[0], Tensor) and args[0].is_meta:
            if func is F.scaled_dot_product_attention:
                return fused_attention(*args[:3])
            if func in (F.cross_entropy, Tensor.index_select):
                args = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), args)
        return func(*args, **(kwargs or {}))


def fused_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Flash attention, which stores no score matrix; on the meta device PyTorch would choose the math kernel."""
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]


def counted_attention(_module: Any, q: Tensor, k: Tensor, v: Tensor, _mask: Any, **_: Any) -> tuple[Tensor, None]:
    """`fused_attention` with the signature of transformers' attentions: float[B, h, L, d] each -> float[B, L, h, d]"""
    return fused_attention(q, k, v).transpose(1, 2).contiguous(), None


AttentionInterface.register(COUNTED, counted_attention)
