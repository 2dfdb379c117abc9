"""Comparing the tensors of models, and a tiny `release`, for the tests of this folder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# What `release` has otherwise than `native`, in any dimensions.
RELEASE = {
    "geometry": "centre_crop",
    "pixel_input": "clip_tensor",
    "pixel_pyramid": False,
    "clip_positions": "published_shift",
    "trainable_fusion": False,
    "trainable_token_weights": False,
    "single_target": True,
}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """The same names, and the same tensors to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def equal(one: nn.Module, other: nn.Module) -> bool:
    """Two models with the same tensors."""
    return same(one.state_dict(), other.state_dict())
