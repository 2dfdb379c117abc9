"""A model behind one thread: what the page and the API ask of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from model.pixdlm import ImageFeatures
from model.segmentation import Segmentation
from model.segmenter import PixDLM
from utils.demo.answers import answer_json
from utils.demo.pictures import Limits
from utils.demo.worker import Checkpoint, Job, Worker
from utils.runtime.errors import UserError


class UnreadablePicture(UserError):
    """A picture whose header was right cannot be decoded."""


class Service:
    """Questions to a model, answered one after the other.

    Args:
        pixdlm: the model; only the worker's thread runs it.
        limits: of a request.
        queue: how many requests may wait.
        max_new_tokens: longest answer.
    """

    def __init__(self, pixdlm: PixDLM, limits: Limits, queue: int, max_new_tokens: int) -> None:
        self.pixdlm, self.limits, self.max_new_tokens = pixdlm, limits, max_new_tokens
        self.worker = Worker(queue)

    def check_question(self, question: str, name: str = "the question") -> None:
        """Raises UserError where a question is empty, too long or has a special token; `name` is in it."""
        if len(question) > self.limits.characters:
            raise UserError(f"{name}: {len(question)} characters; shorten the question")
        self.pixdlm.processor.check_question(question, name)

    def segment(self, picture: bytes, questions: list[str], tolerance: float | None) -> Job[dict[str, Any]]:
        """Put questions about a picture in the line.

        Args:
            picture: a file that `check_picture` has seen.
            questions: that `check_question` has seen.
            tolerance: of `answer_json`.

        Returns:
            a job whose result has width, height and answers; its errors are UnreadablePicture, UserError or Gone

        Raises:
            Busy: no place is free.
        """

        def work(checkpoint: Checkpoint) -> dict[str, Any]:
            features = self.encode(picture)
            checkpoint()
            (frame,) = features.geometries
            # one after the other: masks of a large picture take much more than their JSON
            answers = [answer_json(self.ask(features, question, checkpoint), tolerance) for question in questions]
            return {"width": frame.width, "height": frame.height, "answers": answers}

        return self.worker.submit(work)

    def encode(self, picture: bytes) -> ImageFeatures:
        """Features of a picture file; for the worker's thread.

        Raises:
            UnreadablePicture: it cannot be decoded.
        """
        try:
            return self.pixdlm.encode(picture)
        except UserError as error:
            raise UnreadablePicture(str(error)) from error

    def ask(
        self,
        features: ImageFeatures,
        question: str,
        checkpoint: Checkpoint,
        on_text: Callable[[str], None] | None = None,
    ) -> Segmentation:
        """The answer to a question; for the worker's thread. It ends at the next token where `checkpoint` says so."""

        def heard(text: str) -> None:
            checkpoint()
            if on_text is not None:
                on_text(text)

        checkpoint()
        return self.pixdlm.segment(features, question, self.max_new_tokens, heard)

    def close(self) -> None:
        """End the worker's thread."""
        self.worker.close()
