"""What a visitor of the page does: opens a picture, asks, removes an answer. Knows nothing of Gradio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from model.inputs.images import whole_pixels
from model.segmentation import Segmentation
from utils.demo.answers import answer_json, readable, verdict
from utils.demo.layers import free_colours, layers, mask_file, preview
from utils.demo.pictures import check_picture
from utils.demo.service import Service
from utils.demo.sessions import FeatureCache, KeptAnswer, KeptMask, OpenPicture, Visitor, Visitors, picture_of
from utils.demo.worker import Checkpoint, Gone, Job, T
from utils.runtime.errors import UserError

PATIENCE = 0.5  # seconds between looks whether the visitor is still there
NAME = 80  # characters of a picture's name


class Visits:
    """All open pages and the model that answers them.

    Args:
        service: the model.
    """

    def __init__(self, service: Service) -> None:
        self.service, self.visitors, self.features = service, Visitors(), FeatureCache()
        self._asking: dict[str, Job] = {}

    def visitor(self, session: str) -> Visitor:
        """What is known of a page."""
        return self.visitors[session]

    async def open(self, session: str, data: bytes, name: str) -> AsyncIterator[str]:
        """Make a picture the one that is asked about.

        Yields:
            how long the line is, while it is waited for

        Raises:
            UserError: it cannot be used, or the line is too long.
        """
        await asyncio.to_thread(check_picture, data, self.service.limits)

        def work(checkpoint: Checkpoint) -> OpenPicture:
            features = self.service.encode(data)
            checkpoint()
            (frame,) = features.geometries
            picture = OpenPicture(data, name[:NAME], preview(whole_pixels(data)), frame.width, frame.height)
            self.features.put(picture, features)
            return picture

        async for piece in self._follow(session, work):
            if isinstance(piece, str):
                yield piece
                continue
            visitor = self.visitors[session]
            self.features.drop(visitor.picture)
            visitor.picture = piece

    async def ask(self, session: str, question: str) -> AsyncIterator[str | KeptAnswer]:
        """Ask about the open picture.

        Yields:
            what the model has written so far, or how long the line is; the answer in the end, which is kept

        Raises:
            UserError: there is no picture, the question cannot be asked, or the line is too long.
        """
        visitor = self.visitors[session]
        picture = picture_of(visitor)
        self.service.check_question(question)

        def work(checkpoint: Checkpoint, on_text: Callable[[str], None]) -> KeptAnswer:
            features = self.features.get(picture) or self.service.encode(picture.data)
            self.features.put(picture, features)
            answer = self.service.ask(features, question, checkpoint, lambda text: on_text(readable(text) or "…"))
            return kept(answer, next(visitor.numbers), picture)

        async for piece in self._follow(session, work, streamed=True):
            if not isinstance(piece, str):
                picture.keep(piece)
                visitor.remember(piece.question, piece.verdict)
            yield piece

    async def _follow(self, session: str, work: Callable[..., T], streamed: bool = False) -> AsyncIterator[str | T]:
        """Texts of a piece of work while it waits and is done, then its result."""
        loop, texts = asyncio.get_running_loop(), asyncio.Queue[str]()

        def on_text(text: str) -> None:
            loop.call_soon_threadsafe(texts.put_nowait, text)

        job = self.service.worker.submit((lambda checkpoint: work(checkpoint, on_text)) if streamed else work)
        self._asking[session] = job
        result = asyncio.wrap_future(job.result)
        ends = loop.time() + self.service.limits.seconds
        try:
            while not result.done():
                if loop.time() > ends:
                    raise UserError(f"no answer within {self.service.limits.seconds:g} s; try again later")
                said = asyncio.ensure_future(texts.get())
                await asyncio.wait({result, said}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
                if said.done():
                    yield said.result()
                elif not said.cancel() or not result.done():
                    ahead = self.service.worker.ahead(job)
                    yield f"Waiting for {ahead} before you …" if ahead else ""
            yield _result(result)
        finally:
            self.service.worker.cancel(job)
            self._asking.pop(session, None)
            result.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, and done with

    def remove(self, session: str, number: int | None) -> None:
        """Remove an answer, or all of them."""
        picture = self.visitors[session].picture
        if picture is not None:
            picture.answers = [one for one in picture.answers if number is not None and one.number != number]

    def leave(self, session: str) -> None:
        """Forget a page that was closed."""
        if job := self._asking.pop(session, None):
            self.service.worker.cancel(job)
        self.features.drop(self.visitors[session].picture)
        self.visitors.forget(session)


def _result(result: asyncio.Future[T]) -> T:
    """Raises UserError in place of errors that a visitor can do nothing with; the worker has logged them."""
    try:
        return result.result()
    except UserError:
        raise
    except Gone as error:
        raise UserError("stopped; ask again") from error
    except Exception as error:
        raise UserError("the server failed, which its log describes; try another picture or question") from error


def kept(answer: Segmentation, number: int, picture: OpenPicture) -> KeptAnswer:
    """An answer as the page shows it, with colours that the picture's other masks do not have yet."""
    taken = {mask.colour for other in picture.answers for mask in other.masks}
    masks = []
    for mask, score, colour in zip(answer.masks, answer.scores, free_colours(taken, len(answer.masks)), strict=True):
        inside, outline = layers(mask, colour)
        masks.append(KeptMask(colour, float(score), inside, outline, mask_file(mask)))
    return KeptAnswer(number, answer.question, verdict(answer), answer_json(answer), masks)
