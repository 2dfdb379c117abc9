"""A training step counted without being computed: the model on the meta device, where tensors have sizes alone.

The model's own forward and backward pass run, so that what is counted is what would be computed. Numbers
that decide sizes (ids, labels, which picture) are real; pixels, weights and masks are not.
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

COUNTED = "counted_on_meta"  # name of the attention below among transformers'


class StepCount(NamedTuple):
    """A training step's operations (layers that are computed again count as backward), and its activations: bytes of
    all that lives at the worst moment beside weights, buffers and the batch."""

    forward_flops: float
    backward_flops: float
    activations: int


def meta_model(config: PixDLMConfig, dtype: torch.dtype) -> PixDLMForCausalLM:
    """A model without memory."""
    with init_empty_weights(include_buffers=False):
        model = PixDLMForCausalLM(copy.deepcopy(config))  # in which the attention is named
    model.cast(dtype).to("meta")
    # transformers looks into the masks of attentions that it knows, which have no contents here
    model.language_model.set_attn_implementation(COUNTED)
    return model


def meta_batch(batch: Batch, dtype: torch.dtype) -> Batch:
    """A batch whose pixels and masks are sizes alone."""
    real, meta = batch.to("cpu", dtype), batch.to("meta", dtype)
    no_contents = ("clip_pixels", "sam_pixels", "question_mask", "masks")
    return replace(real, **{name: getattr(meta, name) for name in no_contents})


def count_step(model: PixDLMForCausalLM, batch: Batch, weights: LossWeights) -> StepCount:
    """Forward and backward pass of a model in training mode; both are on the meta device or both are real."""
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
    """Bytes of all tensors made while it is open, at present and at most; `known` ones do not count."""

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
        """Count a tensor's storage until nothing holds it any more."""
        storage = tensor.untyped_storage()
        if id(storage) not in self.storages:
            self.storages.add(id(storage))
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.remove, id(storage), storage.nbytes())

    def remove(self, key: int, size: int) -> None:
        """What a storage's end does."""
        self.storages.discard(key)
        self.now -= size


class OnMeta(TorchFunctionMode):
    """Lets functions run on meta tensors that would not: attention as a GPU computes it, indices that are real.

    Real tensors pass through as they are.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if args and isinstance(args[0], Tensor) and args[0].is_meta:
            if func is F.scaled_dot_product_attention:
                return fused_attention(*args[:3])
            if func in (F.cross_entropy, Tensor.index_select):
                args = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), args)
        return func(*args, **(kwargs or {}))


def fused_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The kernel that keeps no matrix of scores; on the meta device PyTorch would choose the one that does."""
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]


def counted_attention(_module: Any, q: Tensor, k: Tensor, v: Tensor, _mask: Any, **_: Any) -> tuple[Tensor, None]:
    """It, as transformers calls an attention: float[B, h, L, d] each -> float[B, L, h, d]"""
    return fused_attention(q, k, v).transpose(1, 2).contiguous(), None


AttentionInterface.register(COUNTED, counted_attention)
