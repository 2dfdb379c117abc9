"""Pictures and questions through the model: decoded ahead of it, answered in batches, finished beside it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace

import torch

from model.answering import Answer
from model.language.decoding import Decoding
from model.segmenter import PixDLM, check_finite
from utils.inference.finish import Finished, Finisher, Task, Wanted
from utils.inference.reading import Loaded
from utils.inference.sources import Failure, Question
from utils.runtime.errors import UserError
from utils.runtime.helpers import dead_helper_as_user_error

WAITING_BATCHES = 4  # whose answers may wait to be finished


@dataclass(frozen=True)
class Answered:
    """An answer, finished.

    Args:
        loaded: the picture.
        question: about it.
        finished: its line and files.
        seconds: its share of the time that the model took for its batch.
    """

    loaded: Loaded
    question: Question
    finished: Finished
    seconds: float


@dataclass(frozen=True)
class _Waiting:
    loaded: Loaded
    question: Question
    future: Future[Finished]
    seconds: float


def outcomes(
    pixdlm: PixDLM,
    pictures: Iterable[Loaded | Failure],
    finisher: Finisher,
    wanted: Wanted,
    batch_size: int,
    decoding: Decoding,
) -> Iterator[Answered | Failure]:
    """Answer all questions about pictures, in the order of both.

    The last digits of an answer depend on what stands in its batch: with a batch size of 1 they are those of
    `PixDLM.segment` about one picture.

    Args:
        pixdlm: the model.
        pictures: from `ReadAhead`; what could not be read is passed on in its place.
        finisher: of the same configuration.
        wanted: what is made of an answer.
        batch_size: questions that are answered at once, and pictures that are encoded at once.
        decoding: of the answers.

    Raises:
        UserError: the batch does not fit into the GPU's memory, or a process that finishes masks died.
    """
    waiting: deque[_Waiting | Failure] = deque()
    for group in grouped(pictures, batch_size):
        waiting += ask(pixdlm, group, finisher, wanted, batch_size, decoding)
        yield from _finished(waiting, WAITING_BATCHES * batch_size)
    yield from _finished(waiting, 0)


def grouped(pictures: Iterable[Loaded | Failure], questions: int) -> Iterator[list[Loaded | Failure]]:
    """Consecutive pictures with at most so many questions together, and at least one picture."""
    group: list[Loaded | Failure] = []
    held = 0
    for one in pictures:
        asked = len(one.questions) if isinstance(one, Loaded) else 0
        if group and held + asked > questions:
            yield group
            group, held = [], 0
        group.append(one)
        held += asked
    if group:
        yield group


def ask(
    pixdlm: PixDLM,
    group: list[Loaded | Failure],
    finisher: Finisher,
    wanted: Wanted,
    batch_size: int,
    decoding: Decoding,
) -> list[_Waiting | Failure]:
    """Ask about pictures that are encoded together, each once; arguments as for `outcomes`."""
    started = time.perf_counter()
    found = _answers(pixdlm, [one for one in group if isinstance(one, Loaded)], batch_size, decoding)
    seconds = (time.perf_counter() - started) / max(len(found), 1)
    answers = iter(found)
    outcome: list[_Waiting | Failure] = []
    for one in group:
        if isinstance(one, Failure):
            outcome.append(one)
            continue
        asked = replace(one, pixels=None)  # 15 MB at 1,024, which nobody needs any longer
        for question, answer in zip(one.questions, answers, strict=False):
            try:
                check_finite(answer, one.name)
            except UserError as error:
                outcome.append(Failure.of(one.name, error, question))
                continue
            logits = answer.logits.float().cpu().numpy()
            said = answer.text, answer.status
            task = Task(one.picture, question.text, logits, *said, one.geometry, wanted, one.georeference)
            outcome.append(_Waiting(asked, question, finisher.submit(task), seconds))
    return outcome


def _answers(pixdlm: PixDLM, pictures: list[Loaded], batch_size: int, decoding: Decoding) -> list[Answer]:
    """The answers to all questions about pictures, picture after picture."""
    if not pictures:
        return []
    asked = [(number, one.text) for number, picture in enumerate(pictures) for one in picture.questions]
    answers: list[Answer] = []
    try:
        features = pixdlm.encode_batch(pixdlm.processor.preprocessed([one.pixels for one in pictures]))
        for start in range(0, len(asked), batch_size):
            index, questions = zip(*asked[start : start + batch_size], strict=True)
            answers += pixdlm.answers(features, list(index), list(questions), decoding)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the GPU's memory is too small for --batch-size {batch_size} ({str(error).splitlines()[0]}); lower it"
        ) from error
    return answers


def _finished(waiting: deque[_Waiting | Failure], most: int) -> Iterator[Answered | Failure]:
    """The first outcomes, until at most so many wait, and all that are finished."""
    while waiting and (len(waiting) > most or isinstance(waiting[0], Failure) or waiting[0].future.done()):
        one = waiting.popleft()
        if isinstance(one, Failure):
            yield one
            continue
        with dead_helper_as_user_error():
            try:
                finished = one.future.result()
            except UserError as error:  # the picture's file has changed, or only its preview could be decoded
                yield Failure.of(one.loaded.name, error, one.question)
                continue
        yield Answered(one.loaded, one.question, finished, one.seconds)
