"""Hints: for a start from scratch some prompts are told where their target lies, fewer and fewer.

A decoder that cannot follow a prompt gives the language model nothing to learn from, and a language
model that cannot point gives the decoder nothing to follow: from scratch `mini` gave the same mask to
every question of a picture for 15,000 samples. With hints the decoder learns to follow a place
within 2,000, as Segment Anything's does from clicks. That was before the grounding loss; beside it
short hints or none do as well, and long ones hold `mini` up (README, "For developers"). They are for
training alone: evaluation and inference have no way to pass one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from utils.collate import Batch
from utils.distributed import rank, world


def hint_share(step: int, first: float, steps: int) -> float:
    """The share of questions that get a hint at an optimiser step: `first`, falling to 0 at `steps`."""
    return first * max(0.0, 1 - step / steps) if steps else 0.0


def draw_hints(batch: Batch, share: float, generator: torch.Generator) -> Tensor | None:
    """The places of the targets of some of a batch's questions.

    Args:
        batch: with letterboxed frames, which lie at the top left of the network's square.
        share: of the questions.
        generator: in the same state on all processes, which then draw what one would for their
            batches together.

    Returns:
        float[M, 2], x and y of each mask's mean foreground pixel as shares of the square's side, NaN
        for those that get no hint; None where none can get one
    """
    if share <= 0:
        return None
    told = torch.rand(world(), len(batch), generator=generator)[rank()] < share
    nowhere = torch.full((2,), float("nan"), device=batch.input_ids.device)
    return torch.stack(
        [place_of(mask) if hint else nowhere for masks, hint in zip(batch.masks, told, strict=True) for mask in masks]
    )


def place_of(target: Tensor) -> Tensor:
    """The mean foreground pixel of uint8[H, W] on the letterboxed square, float[2]: x, y; NaN without foreground."""
    rows, columns = target.nonzero(as_tuple=True)
    return (torch.stack([columns, rows]).float().mean(dim=1) + 0.5) / max(target.shape)
