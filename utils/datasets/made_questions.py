"""Questions made from labels alone: of which there are several, of size, of place, of colour, of what is absent.

A question is asked only where its answer is clear by a margin; ones that two people might answer differently are not.
The same labels, options and seed give the same questions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from utils.datasets.mask_colours import COLOURS, Colours

KINDS = ("all", "size", "place", "colour", "none")
USUAL_KINDS = KINDS[:-1]

LARGER = 1.3  # times the next one: a difference that the eye sees without measuring
PLACE_MARGIN = 0.08  # of the diagonal, or of the side, by which an object must lie nearer than the next
EDGE_MARGIN = 0.02  # likewise for its side that lies farthest out
OF_THIS_COLOUR, NOT_OF_IT = 0.6, 0.3  # share of an object's pixels that are clearly, or at most loosely, of a colour
SMALLEST_COLOURED = 60  # pixels, below which a few of them decide

WORDINGS: dict[str, tuple[str, ...]] = {
    "every": ("Mark every {c}, each on its own.", "Where is each {c}?", "Find every {c} in the picture."),
    "covered": ("Which part of the picture is covered by any {c}?", "Mark every {c}, all as one mask."),
    "only": ("Where is the only {c}?", "Mark the only {c} in the picture."),
    "largest": ("Which {c} is the largest?", "Mark the largest {c}.", "Where is the largest {c}?"),
    "smallest": ("Which {c} is the smallest?", "Mark the smallest {c}.", "Where is the smallest {c}?"),
    "nearest": ("Which {c} is nearest to {p}?", "Mark the {c} nearest to {p}."),
    "outermost": ("Which {c} is {p}?", "Mark the {c} that is {p}."),
    "coloured": ("Which {c} is {p}?", "Mark the {p} {c}.", "Where is the {p} {c}?"),
    "every coloured": ("Mark every {p} {c}, each on its own.", "Find every {p} {c} in the picture."),
    "absent": ("Where is the {p} {c}?", "Mark the {p} {c}."),
    "absent kind": ("Mark every {c}, each on its own.", "Where is each {c}?"),
}
POINTS = {  # as shares of width and height
    "the upper left corner": (0.0, 0.0),
    "the upper right corner": (1.0, 0.0),
    "the lower left corner": (0.0, 1.0),
    "the lower right corner": (1.0, 1.0),
    "the centre of the picture": (0.5, 0.5),
}
SIDES = {  # axis (0 across, 1 down), and whether the far end of it is meant
    "farthest to the left": (0, False),
    "farthest to the right": (0, True),
    "nearest to the top edge": (1, False),
    "nearest to the bottom edge": (1, True),
}


@dataclass(frozen=True)
class MakeOptions:
    """Which questions are made.

    Args:
        kinds: of KINDS; "none", questions about a colour or a category that is not there, takes labels to be complete.
        seed: of the choice among wordings and places.
        most_targets: masks an answer; of more the area that they cover together is asked for, as one mask.
        most_places: questions of place a category and picture, which few objects would otherwise fill.
    """

    kinds: tuple[str, ...] = USUAL_KINDS
    seed: int = 0
    most_targets: int = 10
    most_places: int = 2


@dataclass(frozen=True)
class Thing:
    """What is known of a labelled object.

    Args:
        category: what it is called.
        area: in pixels.
        centre: (x, y) of its mask, as shares of the picture's width and height.
        box: (left, top, right, bottom) likewise.
        colours: of its pixels; None where they are not looked at.
    """

    category: str
    area: float
    centre: tuple[float, float]
    box: tuple[float, float, float, float]
    colours: Colours | None = None

    @property
    def cut(self) -> bool:
        """Whether it touches the picture's edge, and may go on outside."""
        return min(self.box[:2]) <= 0 or max(self.box[2:]) >= 1


@dataclass(frozen=True)
class MadeQuestion:
    """A question about a picture's things.

    Args:
        slug: names it, unique in its picture.
        kind: of KINDS.
        text: the question.
        things: indices of those that answer it; none of a question about what is absent.
        together: they are one target, the union.
    """

    slug: str
    kind: str
    text: str
    things: tuple[int, ...]
    together: bool = False


@dataclass
class _Maker:
    """The questions about one picture, collected by category."""

    picture: str
    aspect: tuple[float, float]  # width and height in a unit in which distances can be compared
    options: MakeOptions
    made: list[MadeQuestion] = field(default_factory=list)

    def add(self, kind: str, wording: str, things: Sequence[int], c: str, p: str = "", together: bool = False) -> None:
        """One question; which of its wordings is drawn by its name."""
        slug = f"{wording}:{c}" + (f":{p}" if p else "")
        texts = WORDINGS[wording]
        text = texts[draw(self.options.seed, self.picture, slug) % len(texts)].format(c=c, p=p)
        self.made.append(MadeQuestion(slug, kind, text, tuple(things), together))

    def count(self, category: str, things: list[int]) -> None:
        """All of a category: each on its own, or together where they are many."""
        if len(things) == 1:
            self.add("all", "only", things, category)
        elif len(things) <= self.options.most_targets:
            self.add("all", "every", things, category)
        else:
            self.add("all", "covered", things, category, together=True)

    def size(self, category: str, things: list[int], all_things: Sequence[Thing]) -> None:
        """The largest and the smallest; one that the edge cuts is not called the smallest."""
        ordered = sorted(things, key=lambda i: all_things[i].area)
        areas = [all_things[i].area for i in ordered]
        if areas[-1] >= LARGER * areas[-2]:
            self.add("size", "largest", ordered[-1:], category)
        if areas[1] >= LARGER * areas[0] and not all_things[ordered[0]].cut:
            self.add("size", "smallest", ordered[:1], category)

    def place(self, category: str, things: list[int], all_things: Sequence[Thing]) -> None:
        """The nearest to a corner or the centre and the farthest to a side, of which a few are drawn."""
        width, height = self.aspect
        found: list[tuple[str, int, str]] = []
        centres = np.array([all_things[i].centre for i in things])
        boxes = np.array([all_things[i].box for i in things])
        for name, point in POINTS.items():
            away = np.hypot(*((centres - point) * (width, height)).T)
            gap = np.maximum(np.maximum(boxes[:, :2] - point, point - boxes[:, 2:]), 0)  # to the nearest of its box
            if (first := clear_first(away, PLACE_MARGIN * np.hypot(width, height))) is not None:
                edge = np.hypot(*(gap * (width, height)).T)
                if edge[first] <= edge.min():
                    found.append(("nearest", things[first], name))
        for name, (axis, far) in SIDES.items():
            along = -centres[:, axis] if far else centres[:, axis]
            edge = -boxes[:, axis + 2] if far else boxes[:, axis]
            first = clear_first(along, PLACE_MARGIN)
            if first is not None and first == clear_first(edge, EDGE_MARGIN):  # not where several touch the edge
                found.append(("outermost", things[first], name))
        found.sort(key=lambda one: draw(self.options.seed, self.picture, category, one[2]))
        for wording, thing, name in found[: self.options.most_places]:
            self.add("place", wording, [thing], category, name)

    def colour(self, category: str, things: list[int], all_things: Sequence[Thing]) -> None:
        """The one of a colour, or the several, where all others are clearly of another."""
        for colour in COLOURS:
            clear, loose = colour_shares(things, all_things, colour)
            of_it = [i for i, share in zip(things, clear, strict=True) if share >= OF_THIS_COLOUR]
            others = [share for i, share in zip(things, loose, strict=True) if i not in of_it]
            if not 1 <= len(of_it) <= self.options.most_targets or not others or max(others) > NOT_OF_IT:
                continue
            if min(all_things[i].area for i in of_it) >= SMALLEST_COLOURED:
                self.add("colour", "coloured" if len(of_it) == 1 else "every coloured", of_it, category, colour)

    def absent(self, things: dict[str, list[int]], all_things: Sequence[Thing], known: Sequence[str]) -> None:
        """One question whose answer is nowhere: a colour that no object of a category has, or a category."""
        could = [("absent kind", category, "") for category in known if category not in things]
        for category, members in things.items():
            if any(all_things[i].colours is None for i in members):
                continue
            could += [
                ("absent", category, colour)
                for colour in COLOURS
                if max(colour_shares(members, all_things, colour)[1]) <= NOT_OF_IT / 3
            ]
        if could:
            wording, category, colour = min(could, key=lambda one: draw(self.options.seed, self.picture, *one))
            self.add("none", wording, (), category, colour)


def make_questions(
    picture: str,
    size: tuple[int, int],
    things: Sequence[Thing],
    known: Sequence[str] = (),
    uncountable: Sequence[str] = (),
    options: MakeOptions | None = None,
) -> list[MadeQuestion]:
    """Questions about the labelled objects of a picture.

    Args:
        picture: its name, which the drawing of wordings goes by.
        size: (height, width) in pixels.
        things: its objects.
        known: categories that the data set has, for questions about what is absent.
        uncountable: categories with a crowd here whose members have no masks of their own; they are neither counted
            nor compared.
        options: which are made.
    """
    options = options or MakeOptions()
    height, width = size
    maker = _Maker(picture, (width / max(size), height / max(size)), options)
    by_category: dict[str, list[int]] = {}
    for i, thing in enumerate(things):
        by_category.setdefault(thing.category, []).append(i)
    for category, members in by_category.items():
        if category in uncountable:
            continue
        if "all" in options.kinds:
            maker.count(category, members)
        if len(members) == 1:
            continue
        if "size" in options.kinds:
            maker.size(category, members, things)
        if "place" in options.kinds:
            maker.place(category, members, things)
        if "colour" in options.kinds and all(things[i].colours is not None for i in members):
            maker.colour(category, members, things)
    if "none" in options.kinds:
        there = {c: members for c, members in by_category.items() if c not in uncountable}
        maker.absent(there, things, [c for c in known if c not in uncountable])
    return maker.made


def clear_first(values: np.ndarray, margin: float) -> int | None:
    """The index of the smallest of float[N] where the next is greater by the margin, else None."""
    order = np.argsort(values, kind="stable")
    return int(order[0]) if values[order[1]] - values[order[0]] >= margin else None


def colour_shares(members: Sequence[int], things: Sequence[Thing], colour: str) -> tuple[list[float], list[float]]:
    """The share of each member's pixels that are clearly of a colour, and that may be called it."""
    found = [things[i].colours for i in members]
    return [one.clear.get(colour, 0.0) for one in found], [one.loose.get(colour, 0.0) for one in found]


def draw(*parts: object) -> int:
    """A number that only the parts decide, alike in every process."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).digest()[:8], "big")
