"""From mask logits to records of predictions.jsonl, in processes of its own, so that the model does not wait for it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
import torch

from model.answering import Answer
from model.config import PixDLMConfig
from model.inputs.images import Geometry, frame_logits
from model.masks import confidence, encode_mask
from utils.datasets.base import Sample
from utils.evaluation.predictions import Record
from utils.runtime.errors import UserError
from utils.runtime.helpers import dead_helper_as_user_error, helper_pool

MOST_WAITING = 4  # batches whose logits are kept for a process to be free
_config: PixDLMConfig | None = None  # of a process of the pool


def finished_record(
    sample: Sample, control: str, question: str, answer: Answer, geometry: Geometry, config: PixDLMConfig
) -> Record:
    """The record of an answer, its masks in the frame's own geometry."""
    logits = frame_logits(answer.logits.float(), geometry, config)
    scores = [confidence(one) for one in logits]
    return {
        "id": sample.key,
        "question": question,
        "text": answer.text,
        "status": answer.status,
        "masks": [encode_mask(mask) for mask in (logits > 0).cpu().numpy()],
        "scores": scores,
        "control": control,
    }


def check_finite(source: str, records: list[Record]) -> list[Record]:
    """The records, if their masks are finite; others would pass for empty ones.

    Raises:
        UserError: naming the first such record; `source` is where the weights come from.
    """
    broken = [one["id"] for one in records if not all(map(math.isfinite, one["scores"]))]
    if broken:
        raise UserError(
            f"{source}: {len(broken)} of {len(records)} answers have a mask that is not finite, the first that of "
            f"record {broken[0]!r}; evaluate with --precision fp32, or train anew if that does not help"
        )
    return records


def _start(config: PixDLMConfig) -> None:
    """Begin a process of the pool."""
    global _config  # noqa: PLW0603
    _config = config
    torch.set_num_threads(1)


def _finish(sample: Sample, control: str, question: str, logits: np.ndarray, text: str, status: str,
            geometry: Geometry) -> Record:  # fmt: skip
    """`finished_record` in a process of the pool."""
    answer = Answer(torch.from_numpy(logits), text, status)
    return finished_record(sample, control, question, answer, geometry, _config)


class Finisher:
    """Finishes the answers of batches, in processes or, without any, at once.

    Args:
        config: of the model.
        workers: processes.
    """

    def __init__(self, config: PixDLMConfig, workers: int) -> None:
        self.config, self.waiting = config, deque()
        self.pool = None
        if workers:
            self.pool = helper_pool(workers, _start, config)

    def add(self, asked: list[tuple[Sample, str, str, Geometry]], answers: list[Answer]) -> list[list[Record]]:
        """Give a batch to finish: its samples, controls, questions and geometries, and the answers to them.

        Returns:
            the records of earlier batches, or of this one, that are finished
        """
        if self.pool is None:
            pairs = zip(asked, answers, strict=True)
            return [[finished_record(*one[:3], answer, one[3], self.config) for one, answer in pairs]]
        futures: list[Future] = []
        for (sample, control, question, geometry), answer in zip(asked, answers, strict=True):
            logits = answer.logits.float().cpu().numpy()
            task = sample, control, question, logits, answer.text, answer.status, geometry
            with dead_helper_as_user_error():
                futures.append(self.pool.submit(_finish, *task))
        self.waiting.append(futures)
        return list(self.drain(MOST_WAITING))

    def drain(self, most: int = 0) -> Iterator[list[Record]]:
        """The records of batches in their order, until at most so many wait, and of all that are finished."""
        while self.waiting and (len(self.waiting) > most or all(one.done() for one in self.waiting[0])):
            with dead_helper_as_user_error():
                yield [one.result() for one in self.waiting.popleft()]

    def close(self) -> None:
        """End the processes."""
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
