"""What the page remembers of each visitor, in memory alone and no longer than it has room for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from model.pixdlm import ImageFeatures
from utils.runtime.errors import UserError

VISITORS = 64  # that are remembered
PICTURES_BYTES = 1 << 30  # of all visitors' pictures and masks together
KEPT = 12  # answers about a picture, whose masks are shown together
HISTORY = 50  # questions of a visitor
ENCODED = 8  # pictures whose features are held, which may lie on a GPU


@dataclass(frozen=True)
class KeptMask:
    """A mask as the page shows it.

    Args:
        colour: of its layers.
        confidence: 0 to 1.
        inside, outline: layers, see `utils.demo.layers`.
        file: a PNG of the picture's own size.
    """

    colour: tuple[int, int, int]
    confidence: float
    inside: str
    outline: str
    file: str


@dataclass(frozen=True)
class KeptAnswer:
    """An answer as the page shows it.

    Args:
        number: counts a visitor's answers.
        question: that was asked.
        verdict: what became of it, in a sentence.
        record: of `answer_json`.
        masks: one for each of the record's.
    """

    number: int
    question: str
    verdict: str
    record: dict[str, Any]
    masks: list[KeptMask]


@dataclass
class OpenPicture:
    """A picture that a visitor asks about.

    Args:
        data: its file.
        name: of the file, as the visitor calls it.
        shown: its preview.
        width, height: in pixels.
        answers: about it, oldest first.
    """

    data: bytes
    name: str
    shown: str
    width: int
    height: int
    answers: list[KeptAnswer] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes that it takes, roughly."""
        masks = (mask for answer in self.answers for mask in answer.masks)
        return len(self.data) + len(self.shown) + sum(len(m.inside) + len(m.outline) + len(m.file) for m in masks)

    def keep(self, answer: KeptAnswer) -> None:
        """Add an answer; the oldest one makes room for it."""
        self.answers = [*self.answers, answer][-KEPT:]


@dataclass
class Visitor:
    """One open page.

    Args:
        picture: that is asked about, if any.
        history: (picture, question, verdict) of all questions, oldest first.
        numbers: of answers.
    """

    picture: OpenPicture | None = None
    history: list[tuple[str, str, str]] = field(default_factory=list)
    numbers: count = field(default_factory=lambda: count(1))

    def remember(self, question: str, verdict: str) -> None:
        """Add a line to the history."""
        name = self.picture.name if self.picture else ""
        self.history = [*self.history, (name, question, verdict)][-HISTORY:]


class Visitors:
    """All open pages by the name of their session, which only the page itself knows.

    Where there are too many, or their pictures take too much, those that were quiet longest are forgotten.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, Visitor] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, session: str) -> Visitor:
        """The visitor of a session, new where it is not known."""
        with self._lock:
            visitor = self._known.setdefault(session, Visitor())
            self._known.move_to_end(session)
            while len(self._known) > 1 and (len(self._known) > VISITORS or self._bytes() > PICTURES_BYTES):
                self._known.popitem(last=False)
            return visitor

    def __len__(self) -> int:
        return len(self._known)

    def forget(self, session: str) -> None:
        """Drop what is known of a session."""
        with self._lock:
            self._known.pop(session, None)

    def _bytes(self) -> int:
        return sum(visitor.picture.size for visitor in self._known.values() if visitor.picture)


class FeatureCache:
    """Features of the pictures that were asked about last."""

    def __init__(self) -> None:
        self._held: OrderedDict[int, tuple[OpenPicture, ImageFeatures]] = OrderedDict()
        self._lock = threading.Lock()  # the worker's thread fills it, the page's empties it

    def get(self, picture: OpenPicture) -> ImageFeatures | None:
        """The features of a picture, where they are held."""
        with self._lock:
            if (found := self._held.get(id(picture))) is None:
                return None
            self._held.move_to_end(id(picture))
            return found[1]

    def put(self, picture: OpenPicture, features: ImageFeatures) -> None:
        """Hold features; those that were used least recently make room."""
        with self._lock:
            self._held[id(picture)] = picture, features
            while len(self._held) > ENCODED:
                self._held.popitem(last=False)

    def drop(self, picture: OpenPicture | None) -> None:
        """Hold the features of a picture no longer."""
        with self._lock:
            self._held.pop(id(picture), None)


def picture_of(visitor: Visitor) -> OpenPicture:
    """The picture that a visitor asks about.

    Raises:
        UserError: there is none, or it was forgotten.
    """
    if visitor.picture is None:
        raise UserError("there is no picture to ask about; drop one, or choose an example")
    return visitor.picture
