"""A training step counted without being computed: the model on the meta device, where tensors have sizes alone.

The model's own forward and backward pass run, so that what is counted is what would be computed. Numbers
that decide sizes (ids, labels, which picture) are real; pixels, weights and masks are not.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

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

META = "meta"
COUNTED = "counted_on_meta"  # name of the attention below among transformers'


@dataclass(frozen=True)
class StepCount:
    """A training step's sizes.

    Args:
        samples: of the batch.
        forward_flops: floating-point operations of matrix products, convolutions and attention.
        backward_flops: likewise, what is computed again included.
        peak: bytes of all that lives at the worst moment beside weights, buffers and the batch.
    """

    samples: int
    forward_flops: int
    backward_flops: int
    peak: int


def meta_model(config: PixDLMConfig, dtype: torch.dtype) -> PixDLMForCausalLM:
    """A model without memory."""
    with init_empty_weights(include_buffers=False):
        model = PixDLMForCausalLM(copy.deepcopy(config))  # in which the attention is named
    model.cast(dtype).to(META)
    # transformers looks into the masks of attentions that it knows, which have no contents here
    model.language_model.set_attn_implementation(COUNTED)
    return model


def meta_batch(batch: Batch, dtype: torch.dtype) -> Batch:
    """A batch whose pixels and masks are sizes alone."""
    batch = batch.to("cpu", dtype)
    return replace(
        batch,
        clip_pixels=batch.clip_pixels.to(META),
        sam_pixels=None if batch.sam_pixels is None else batch.sam_pixels.to(META),
        question_mask=batch.question_mask.to(META),
        masks=[masks.to(META) for masks in batch.masks],
    )


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
    return StepCount(len(batch), forward.get_total_flops(), backward.get_total_flops(), live.peak)


@torch.no_grad()
def count_forward(model: PixDLMForCausalLM, batch: Batch) -> int:
    """Floating-point operations of a forced answer to every question of the batch."""
    with OnMeta(), flop_counter() as counter:
        model(batch)
    return counter.get_total_flops()


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensors made while it is open, at present and at most; `known` ones do not count."""

    def __init__(self, known: Iterable[Tensor | None]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.kept = [tensor.untyped_storage() for tensor in known if tensor is not None]
        self.storages = {id(storage) for storage in self.kept}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        made = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self.see, made)
        return made

    def see(self, tensor: Tensor) -> None:
        """Count a tensor's storage until nothing holds it any more."""
        storage = tensor.untyped_storage()
        if id(storage) not in self.storages:
            self.storages.add(id(storage))
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.forget, id(storage), storage.nbytes())

    def forget(self, key: int, size: int) -> None:
        """What a storage's end does."""
        self.storages.discard(key)
        self.now -= size


class OnMeta(TorchFunctionMode):
    """Lets functions run on meta tensors that would not: attention as a GPU computes it, indices that are real.

    Real tensors pass through as they are.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if args and isinstance(args[0], Tensor) and args[0].is_meta:
            if func is F.scaled_dot_product_attention:
                return fused_attention(*args, **kwargs)
            if func is F.cross_entropy:
                return func(args[0], args[1].to(META), *args[2:], **kwargs)
            if func is Tensor.index_select:
                return func(*args[:2], args[2].to(META), **kwargs)
        return func(*args, **kwargs)


def fused_attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Tensor:
    """The kernel that keeps no matrix of scores; on the meta device PyTorch would choose the one that does."""
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]


def counted_attention(_module: Any, q: Tensor, k: Tensor, v: Tensor, _mask: Any, **_: Any) -> tuple[Tensor, None]:
    """It, as transformers calls an attention: float[B, h, L, d] each -> float[B, L, h, d]"""
    return fused_attention(q, k, v).transpose(1, 2).contiguous(), None


AttentionInterface.register(COUNTED, counted_attention)
