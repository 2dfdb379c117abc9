"""What the model reads: a batch of questions about pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from model.inputs.images import Geometry
from utils.datasets.base import Sample


@dataclass
class Batch:
    """What the model reads.

    Args:
        clip_pixels: float[I, 3, S, S]
        sam_pixels: float[I, 3, P, P], or None where the pixel path enlarges CLIP's tensor.
        image_index: long[Q], the picture of each question.
        input_ids: long[Q, L], right-padded, with the image placeholder.
        attention_mask: bool[Q, L], true at tokens.
        labels: long[Q, L], IGNORE_INDEX where nothing is scored.
        question_ids: long[Q, T], the bare questions, right-padded.
        question_mask: bool[Q, T]
        masks: per question uint8[K, H, W], in the frame's geometry; smaller than it with `mask_side`.
        geometries: per picture.
        samples: per question.
    """

    clip_pixels: Tensor
    sam_pixels: Tensor | None
    image_index: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    question_ids: Tensor
    question_mask: Tensor
    masks: list[Tensor]
    geometries: list[Geometry]
    samples: list[Sample]

    def __len__(self) -> int:
        return len(self.input_ids)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Batch:
        """A copy on `device`; with `dtype` the pixels take that type."""
        moved = self._each(lambda tensor: tensor.to(device, non_blocking=True))
        if dtype is not None:
            moved.clip_pixels = moved.clip_pixels.to(dtype)
            moved.sam_pixels = None if moved.sam_pixels is None else moved.sam_pixels.to(dtype)
        return moved

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory, which a DataLoader with `pin_memory` asks for."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """A copy with `change` done to every tensor."""
        changed: dict[str, Tensor | list[Tensor]] = {"masks": [change(mask) for mask in self.masks]}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                changed[field.name] = change(value)
        return replace(self, **changed)


def pad(rows: list[list[int]], value: int) -> tuple[Tensor, Tensor]:
    """Rows padded on the right: long[N, longest] and bool[N, longest], true where a row has entries."""
    longest = max(len(row) for row in rows)
    padded = torch.tensor([row + [value] * (longest - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return padded, torch.arange(longest) < lengths[:, None]
