"""What the model reads: a batch of questions about pictures.

Shape legend: I pictures, Q questions, L prompt tokens, T question tokens, K targets of a question.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from model.config import PixDLMConfig
from model.inputs.images import Geometry
from model.inputs.token_positions import TokenPositions, find_token_positions
from model.language.tokens import IGNORE_INDEX, PAD_ID


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
        found: what `token_positions` found, and the prompts in which it did.
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
    found: tuple[TokenPositions, list[tuple[Tensor, int]]] | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    def token_positions(self, config: PixDLMConfig) -> TokenPositions:
        """Where things stand in the prompts, for a model of this configuration.

        They are found once, by the processor, and move with the batch. Where prompts have been replaced or written
        to since, they are found anew, for which the host waits if the prompts are on a GPU.

        Raises:
            ValueError: as `find_token_positions`.
        """
        sizes = config.text_config.vocab_size, config.image_tokens
        if not self._found_in_these_prompts() or (self.found[0].vocabulary, self.found[0].image_tokens) != sizes:
            positions = find_token_positions(self.input_ids, self.labels, self.image_index, config)
            self._keep(positions.each(lambda tensor: tensor.to(self.input_ids.device, non_blocking=True)))
        return self.found[0]

    def with_answers(self, answers: list[list[int]], config: PixDLMConfig) -> Batch:
        """A copy whose prompts go on with these tokens, which are labelled. The batch is to be on the CPU."""
        rows = zip(self.input_ids.tolist(), self.attention_mask.sum(dim=1).tolist(), answers, strict=True)
        prompts = [(row[:length], answer) for row, length, answer in rows]
        ids, attention = pad([prompt + answer for prompt, answer in prompts], PAD_ID)
        labels, _ = pad([[IGNORE_INDEX] * len(prompt) + answer for prompt, answer in prompts], IGNORE_INDEX)
        answered = replace(self, input_ids=ids, attention_mask=attention, labels=labels, found=None)
        answered.token_positions(config)  # before it is moved
        return answered

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Batch:
        """A copy on `device`; with `dtype` the pixels take that type."""
        goes_on = torch.device(device).type != "cpu"  # what is read there must have arrived
        moved = self._each(lambda tensor: tensor.to(device, non_blocking=goes_on))
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
        copy = replace(self, **changed, found=None)
        if self._found_in_these_prompts():
            copy._keep(self.found[0].each(change))
        return copy

    def __getstate__(self) -> dict[str, Any]:
        """A worker's batch takes its positions along, without counts of writes, which begin anew where it arrives."""
        return {**self.__dict__, "found": self.found[0] if self._found_in_these_prompts() else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, found=None)
        if state["found"] is not None:
            self._keep(state["found"])

    def _keep(self, positions: TokenPositions) -> None:
        """Keep positions as those of the prompts as they are."""
        self.found = positions, self._prompts()

    def _prompts(self) -> list[tuple[Tensor, int]]:
        """What positions are found in, each with the number of its writes, where PyTorch counts them."""
        tensors = self.input_ids, self.labels, self.image_index
        return [(one, -1 if one.is_inference() else one._version) for one in tensors]

    def _found_in_these_prompts(self) -> bool:
        """Whether the positions that are kept were found in the prompts as they are."""
        if self.found is None:
            return False
        pairs = zip(self.found[1], self._prompts(), strict=True)
        return all(then is now and count == count_now for (then, count), (now, count_now) in pairs)


def pad(rows: list[list[int]], value: int) -> tuple[Tensor, Tensor]:
    """Rows padded on the right: long[N, longest] and bool[N, longest], true where a row has entries."""
    longest = max(len(row) for row in rows)
    padded = torch.tensor([row + [value] * (longest - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return padded, torch.arange(longest) < lengths[:, None]
