"""What the model reads: a batch of questions about pictures.

Shape legend: I pictures, Q questions, L prompt tokens, T question tokens, K targets of a question.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from model.inputs.images import Geometry


@dataclass
class Batch:
    """What the model reads.

    Args:
        clip_pixels: float[I, 3, S, S], or None where the pictures are encoded already.
        sam_pixels: float[I, 3, P, P], or None where the pixel path enlarges CLIP's tensor.
        image_index: long[Q], the picture of each question.
        input_ids: long[Q, L], right-padded, with the image placeholder.
        attention_mask: bool[Q, L], true at tokens.
        labels: long[Q, L], IGNORE_INDEX where nothing is scored.
        question_ids: long[Q, T], the bare questions, right-padded.
        question_mask: bool[Q, T]
        geometries: per picture.
        masks: per question uint8[K, H, W] in the frame's geometry, of 0, 1 and IGNORE_LABEL; empty without targets.
        has_ignored_pixels: whether IGNORE_LABEL occurs in the masks.
        samples: per question an object of the caller's; the model does not read it.
    """

    clip_pixels: Tensor | None
    sam_pixels: Tensor | None
    image_index: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    question_ids: Tensor
    question_mask: Tensor
    geometries: list[Geometry]
    masks: list[Tensor] = field(default_factory=list)
    has_ignored_pixels: bool = False
    samples: list[Any] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.input_ids)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Batch:
        """A copy on `device`; with `dtype` the pixels take that type."""
        moved = self._each(lambda tensor: tensor.to(device, non_blocking=True))
        if dtype is not None:
            for name in ("clip_pixels", "sam_pixels"):
                pixels = getattr(moved, name)
                setattr(moved, name, None if pixels is None else pixels.to(dtype))
        return moved

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory; a DataLoader with `pin_memory` calls this."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """A copy with `change` applied to every tensor."""
        changed: dict[str, Tensor | list[Tensor]] = {"masks": [change(mask) for mask in self.masks]}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Tensor):
                changed[each.name] = change(value)
        return replace(self, **changed)


def pad(rows: list[list[int]], value: int) -> tuple[Tensor, Tensor]:
    """Rows padded on the right: long[N, longest] and bool[N, longest], true where a row has entries."""
    longest = max(len(row) for row in rows)
    padded = torch.tensor([row + [value] * (longest - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return padded, torch.arange(longest) < lengths[:, None]
