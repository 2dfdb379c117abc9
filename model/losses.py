"""Losses of masks: binary cross entropy, dice and the overlap loss as published, and our grounding loss.

Shape legend: a mask keeps its own height H and width W, so masks come as lists.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.masks import IGNORE_LABEL

DICE_SCALE = 1000.0  # published: sums are divided by it before the smoothing is added
DICE_SMOOTHING = 1e-6
PIXELS = (-2, -1)  # the dimensions of a mask


@dataclass(frozen=True)
class LossWeights:
    """Weight of each loss in the sum; defaults as published.

    Args:
        ce: of the cross entropy of [SEG] tokens and `</s>`.
        bce: of the masks' binary cross entropy.
        dice: of their dice loss.
        overlap: of the overlap loss; written but never used in the published code.
        grounding: ours, for training from scratch.
        text: ours, of the cross entropy of an answer's words, which the published model does not learn.
    """

    ce: float = 1.0
    bce: float = 2.0
    dice: float = 0.5
    overlap: float = 0.0
    grounding: float = 0.0
    text: float = 1.0


def mask_bce(logits: Tensor, target: Tensor, counted: Tensor | None = None) -> Tensor:
    """Mean over the pixels of each mask: float[…, H, W], float[…, H, W] -> float[…]

    Args:
        logits: of the masks.
        target: 0 or 1.
        counted: float[…, H, W], 0 at ignored pixels, 1 elsewhere; None counts all.
    """
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    if counted is None:
        return losses.mean(dim=PIXELS)
    return (losses * counted).sum(dim=PIXELS) / counted.sum(dim=PIXELS).clamp(min=1)


def mask_dice(logits: Tensor, target: Tensor, counted: Tensor | None = None) -> Tensor:
    """Dice loss of each mask: float[…, H, W], float[…, H, W] -> float[…]; arguments as `mask_bce`."""
    p = logits.sigmoid() if counted is None else logits.sigmoid() * counted
    overlap = 2 * (p * target).sum(dim=PIXELS) / DICE_SCALE
    total = p.sum(dim=PIXELS) / DICE_SCALE + target.sum(dim=PIXELS) / DICE_SCALE
    return 1 - (overlap + DICE_SMOOTHING) / (total + DICE_SMOOTHING)


def mask_losses(logits: list[Tensor], targets: list[Tensor], ignores: bool = False) -> tuple[Tensor, Tensor]:
    """Mean BCE and mean dice over all masks of a batch; zero where it has none.

    Args:
        logits: per question float[K, H, W], in the frame's geometry, as large as the targets.
        targets: per question uint8[K, H, W] of 0, 1 and, with `ignores`, IGNORE_LABEL.
        ignores: whether IGNORE_LABEL may occur.

    Raises:
        ValueError: a question's numbers of logits and of targets differ.
    """
    by_size: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
    for prediction, target in zip(logits, targets, strict=True):
        if prediction.shape != target.shape:
            raise ValueError(f"predicted masks are {tuple(prediction.shape)}, targets {tuple(target.shape)}")
        by_size.setdefault(target.shape[-2:], []).append((prediction, target))
    if not sum(map(len, targets)):  # zeros that reach every parameter: other ranks may have masks
        nothing = torch.cat([one.flatten() for one in logits]).sum()
        return nothing, nothing
    bce, dice = [], []
    for pairs in by_size.values():  # together, as a few large operations are faster than many small ones
        predicted, truth = (torch.cat(side) for side in zip(*pairs, strict=True))
        truth, counted = split_ignored(truth, ignores)
        bce.append(mask_bce(predicted.float(), truth, counted))
        dice.append(mask_dice(predicted.float(), truth, counted))
    return torch.cat(bce).mean(), torch.cat(dice).mean()


def split_ignored(target: Tensor, ignores: bool) -> tuple[Tensor, Tensor | None]:
    """A target as float of 0 and 1, and a float mask of the pixels that count (None: all of them)."""
    if not ignores:
        return target.float(), None
    return (target == 1).float(), (target != IGNORE_LABEL).float()


def overlap_loss(logits: Tensor, targets: Tensor, ignores: bool = False) -> Tensor:
    """The paper's target refinement: BCE only where at least two masks of a question claim a pixel.

    Args:
        logits: float[K, H, W] of one question.
        targets: uint8[K, H, W] or float.
        ignores: whether IGNORE_LABEL may occur.

    Returns:
        float[], the weighted BCE averaged over pixels and summed over the question's masks
    """
    contested = ((logits > 0).sum(dim=0, keepdim=True) >= 2).to(logits.dtype)
    truth, counted = split_ignored(targets, ignores)
    bce = F.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype), reduction="none")
    if counted is None:
        return (bce * contested).mean(dim=PIXELS).sum()
    return ((bce * contested * counted).sum(dim=PIXELS) / counted.sum(dim=PIXELS).clamp(min=1)).sum()


def mean_overlap_loss(logits: list[Tensor], targets: list[Tensor], ignores: bool = False) -> Tensor:
    """The overlap loss summed over all questions, divided by the number of masks."""
    losses = [overlap_loss(one.float(), target, ignores) for one, target in zip(logits, targets, strict=True)]
    return torch.stack(losses).sum() / max(1, sum(len(one) for one in logits))


def grounding_loss(logits: Tensor, targets: list[Tensor], grid: int) -> Tensor:
    """Cross entropy between the image tokens that a [SEG] group resembles and those that its target covers.

    Ours: the published model starts from LLaVA, whose language model already reads images. Trained from scratch,
    a model learns to answer from the question alone: `mini`, trained without this loss, gave the same masks when
    its image tokens were those of another picture.

    Args:
        logits: float[M, grid * grid], similarity of each mask's [SEG] states to the image tokens, row by row.
        targets: per question uint8[K, H, W], M in all, with some foreground each; the letterboxed
            frame lies at the top left of the square.
        grid: image tokens along a side.

    Returns:
        float[], the mean over masks; zero without any
    """
    if not len(logits):
        return logits.sum()
    shares = torch.stack([cell_shares(one, grid) for masks in targets for one in masks])
    return F.cross_entropy(logits.float(), shares)


def cell_shares(target: Tensor, grid: int) -> Tensor:
    """How a mask's foreground spreads over the cells of its square: uint8[H, W] -> float[grid * grid], sum 1."""
    height, width = target.shape
    side = max(height, width)
    square = F.pad((target == 1)[None].float(), (0, side - width, 0, side - height))
    cells = F.adaptive_avg_pool2d(square, grid).flatten()
    return cells / cells.sum().clamp(min=torch.finfo(cells.dtype).tiny)
