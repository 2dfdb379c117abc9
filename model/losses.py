"""Losses of masks, as published: binary cross entropy, dice, and the overlap loss.

Shape legend: a mask keeps its own height H and width W, so masks come as lists.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

DICE_SCALE = 1000.0  # published: sums are divided by it before the smoothing is added
DICE_SMOOTHING = 1e-6


@dataclass(frozen=True)
class LossWeights:
    """What each loss counts in the sum; defaults as published."""

    ce: float = 1.0
    bce: float = 2.0
    dice: float = 0.5
    overlap: float = 0.0  # written but never used in the published code


def mask_bce(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over the pixels of one mask: float[H, W], float[H, W] -> float[]"""
    return F.binary_cross_entropy_with_logits(logits, target)


def mask_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Dice loss of one mask: float[H, W], float[H, W] -> float[]"""
    p = logits.sigmoid()
    overlap = 2 * (p * target).sum() / DICE_SCALE
    total = p.sum() / DICE_SCALE + target.sum() / DICE_SCALE
    return 1 - (overlap + DICE_SMOOTHING) / (total + DICE_SMOOTHING)


def mask_losses(logits: list[Tensor], targets: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean BCE and mean dice over all masks of a batch.

    Args:
        logits: per question float[K, H, W], in the frame's geometry.
        targets: per question uint8[K, H, W].

    Raises:
        ValueError: a question's numbers of logits and of targets differ, or there is no mask at all.
    """
    bce, dice = [], []
    for prediction, target in zip(logits, targets, strict=True):
        if prediction.shape != target.shape:
            raise ValueError(f"predicted masks are {tuple(prediction.shape)}, targets {tuple(target.shape)}")
        for one, truth in zip(prediction.float(), target.float(), strict=True):
            bce.append(mask_bce(one, truth))
            dice.append(mask_dice(one, truth))
    if not bce:
        raise ValueError("no question of the batch has a target, so there is no mask to compare")
    return torch.stack(bce).mean(), torch.stack(dice).mean()


def overlap_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The paper's target refinement: BCE only where at least two masks of a question claim a pixel.

    Args:
        logits: float[K, H, W] of one question.
        targets: uint8[K, H, W] or float.

    Returns:
        float[], the weighted BCE averaged over pixels and summed over the question's masks
    """
    contested = ((logits > 0).sum(dim=0, keepdim=True) >= 2).to(logits.dtype)
    bce = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")
    return (bce * contested).mean(dim=(1, 2)).sum()


def mean_overlap_loss(logits: list[Tensor], targets: list[Tensor]) -> Tensor:
    """The overlap loss summed over all questions, divided by the number of masks."""
    losses = [overlap_loss(one.float(), target) for one, target in zip(logits, targets, strict=True)]
    return torch.stack(losses).sum() / sum(len(one) for one in logits)
