"""How a model is asked: teacher-forced or generating, with or without reasoning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from model.answering import Answer, forced_answers, written_answers
from model.inputs.batch import Batch
from model.language.answers import REASONING, SEG
from model.language.decoding import Decoding
from model.language.tokens import PixTokenizer
from model.pixdlm import ImageFeatures, PixDLMForCausalLM
from utils.evaluation.controls import NO_CONTROL

FORCED, GENERATE = KINDS = ("forced", "generate")
NO_REASONING, OWN_REASONING, GIVEN_REASONING = REASONINGS = ("none", "own", "given")


@dataclass(frozen=True)
class Protocol:
    """How a model is asked.

    Args:
        kind: "forced" puts as many [SEG] groups as there are targets into the answer (published); with "generate"
            the model writes its own answer, and only whole groups in it give masks.
        reasoning: what stands before the groups. "none"; "own", what the model writes; "given", the words of the data
            set's answer, which are ground truth.
        decoding: of what the model writes.
        controls: in which each record is asked, "none" first.
        seed: of sampling and of shuffled questions.
    """

    kind: str = FORCED
    reasoning: str = NO_REASONING
    decoding: Decoding = Decoding()
    controls: tuple[str, ...] = (NO_CONTROL,)
    seed: int = 0

    @property
    def writes(self) -> bool:
        """Whether the model writes anything."""
        return self.kind == GENERATE or self.reasoning == OWN_REASONING

    def answer_format(self, trained: str) -> str:
        """Which words of the data set's answers are put into prompts, for a model trained with a format of answers."""
        if self.reasoning != GIVEN_REASONING:
            return SEG
        return REASONING if trained == SEG else trained

    def with_controls(self, controls: tuple[str, ...]) -> Protocol:
        """The protocol under these controls too."""
        return replace(self, controls=(NO_CONTROL, *controls))

    def described(self) -> dict[str, Any]:
        """For metrics.json."""
        decoding = asdict(self.decoding) if self.writes else None
        if decoding:
            decoding["seed"] = self.seed if self.decoding.temperature else None
        return {
            "kind": self.kind,
            "reasoning": self.reasoning,
            "uses_ground_truth_text": self.reasoning == GIVEN_REASONING,
            "decoding": decoding,
        }


def protocol_of(kind: str, reasoning: str, decoding: Decoding, controls: tuple[str, ...], seed: int) -> Protocol:
    """A protocol whose decoding writes `<think>` with reasoning of the model's own alone."""
    return Protocol(kind, reasoning, replace(decoding, reasoning=reasoning == OWN_REASONING), controls, seed)


def answer_batch(
    model: PixDLMForCausalLM,
    tokenizer: PixTokenizer,
    protocol: Protocol,
    batch: Batch,
    targets: list[int],
    features: ImageFeatures | None,
    written: list[list[int]] | None,
    run: Callable[[Batch], Any] | None = None,
) -> list[Answer]:
    """The answers to a batch of questions about encoded pictures; arguments as in `model.answering`, `written` where
    the protocol writes."""
    if protocol.kind == GENERATE:
        return written_answers(model, tokenizer, batch, features, written)
    return forced_answers(model, tokenizer, batch, targets, features, written, run)
