"""How answers are decoded: greedily, by beams or by sampling, and up to which length."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.generation.streamers import BaseStreamer


@dataclass(frozen=True)
class Decoding:
    """Settings of generation; the default is greedy.

    Args:
        max_new_tokens: of an answer; a longer one is cut, and so is one that leaves the language model's context.
        temperature: 0 takes the likeliest token; above 0 tokens are sampled at it.
        top_p: sample from the fewest tokens whose probabilities reach it; below 1 only with a temperature.
        beams: answers that are followed beside each other.
        reasoning: whether `<think>` may be written.

    Raises:
        ValueError: a value is out of range, or one would have no effect.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    beams: int = 1
    reasoning: bool = True

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.beams < 1:
            raise ValueError("max_new_tokens and beams must be at least 1")
        if not 0 <= self.temperature < math.inf:  # NaN is in no range
            raise ValueError(f"temperature is {self.temperature}; it must be finite and not negative")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if self.top_p < 1 and not self.temperature:
            raise ValueError(f"top_p is {self.top_p}, which is of sampling; the temperature must be above 0")

    def options(self, suppressed: list[int]) -> dict[str, Any]:
        """Arguments of transformers' `generate`; `suppressed` are the ids of `<think>` and `</think>`."""
        options: dict[str, Any] = {"do_sample": self.temperature > 0, "num_beams": self.beams}
        if self.temperature > 0:
            options |= {"temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        if not self.reasoning:
            options["suppress_tokens"] = suppressed
        return options


class TokenStream(BaseStreamer):
    """Tells of every token as `generate` writes it; only for one prompt, given as embeddings.

    Args:
        heard: called with the ids so far.
    """

    def __init__(self, heard: Callable[[list[int]], None]) -> None:
        self.heard, self.ids = heard, []

    def put(self, value: Tensor) -> None:
        """Take the next token; transformers gives the prompt first, which has no ids here."""
        self.ids += value.flatten().tolist()
        if self.ids:
            self.heard(list(self.ids))

    def end(self) -> None:
        """Nothing is left to tell."""
