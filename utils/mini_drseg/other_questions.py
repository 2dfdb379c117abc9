"""Questions about a rendered scene that several things answer, or nothing.

Both kinds ask of attribute, scene or place, in words like those of questions about one thing. The targets of a question
are ordered from the largest to the smallest, which flipping a picture does not change.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from utils.mini_drseg.planner import ROOF_COLOURS, VEHICLE_COLOURS
from utils.mini_drseg.questions import (
    COLOUR_QUESTIONS,
    CONFUSABLE,
    EDGES,
    FAR_QUESTIONS,
    NEAR_QUESTIONS,
    NUMBERS,
    ROLES,
    plural,
)
from utils.mini_drseg.scene import VEHICLES, Camera, Thing
from utils.mini_drseg.visibility import VisibleThing

SEVERAL_MOST = 4  # targets of a question
NONE_TURN = (4, 9)  # so many of so many pictures get a question without a target: one in ten of all questions


@dataclass(frozen=True)
class OtherQuestion:
    """A question that has not exactly one target.

    Attributes:
        reasoning_type: "attribute", "scene" or "spatial".
        targets: none of them, or from 2 to SEVERAL_MOST, the largest first.
        questions: wordings, of which one is asked.
        think: the reasoning of the answer.
    """

    reasoning_type: str
    targets: tuple[VisibleThing, ...]
    questions: tuple[str, ...]
    think: str
    answer: str


# -- several -----------------------------------------------------------------------------------
ALL_OF_KIND = ("Segment all {k}.", "Find every {s}.", "Show all the {k}.", "Mark each {s} in the picture.")
ALL_OF_COLOUR = ("Segment all {c} {k}.", "Find every {c} {s}.", "Show all the {c} {k}.", "Which {k} are {c}?")
ALL_IN_HALF = ("Segment the {k} in the {h} half.", "Which {k} are in the {h} half of the picture?",
               "Find all {k} in the {h} half of the picture.")  # fmt: skip
ALL_OF_ROLE = {
    "swim": ("Where can people swim? Show all places.", "Find every place that is full of water."),
    "passengers": ("Which vehicles could many passengers board?", "Find all vehicles that stop for passengers."),
    "cargo": ("Which vehicles could carry heavy cargo?", "Find all vehicles that carry goods."),
    "shade": (
        "What grows here and gives shade? Show all of it.",
        "Find every place where a bird could rest in leaves.",
    ),
    "live": ("Which structures have walls, windows and a roof?", "Find all places where a family could sleep."),
    "ship": ("What would a crane lift onto a ship? Show all of it.", "Find all metal boxes that go by ship."),
    "buy": ("Where could you buy fruit? Show all places.", "Find all places to buy fresh fruit."),
}
HALVES = {"left": (0, False), "right": (0, True), "top": (1, False), "bottom": (1, True)}  # axis, the far side of it
COUNTED = (*VEHICLES, "building", "tree", "pool", "container", "stall", "person")


def several_questions(visible: list[VisibleThing], camera: Camera) -> Iterator[OtherQuestion]:
    """All questions that a scene allows whose answer is more than one thing, every one of them plain to see."""
    for kind in COUNTED:
        members = [one for one in visible if one.thing.kind == kind]
        yield from _about(members, "attribute", ALL_OF_KIND, f"There are {{n}} {plural(kind)}.", k=plural(kind), s=kind)
        for half, (axis, far) in HALVES.items():
            yield from _in_half(members, half, axis, far, camera)
    for kind in VEHICLES:
        members = [one for one in visible if one.thing.kind == kind]
        for colour in VEHICLE_COLOURS:
            those = [one for one in members if one.thing.colour == colour]
            if 0 < len(those) < len(members) and _is_distinct(colour, members):
                think = f"There are {{n}} {plural(kind)} that are {colour}."
                yield from _about(those, "attribute", ALL_OF_COLOUR, think, k=plural(kind), s=kind, c=colour)
    for name, texts in ALL_OF_ROLE.items():
        fitting = [one for one in visible if ROLES[name].fits(one.thing)]
        yield from _about(fitting, "scene", texts, "There are {n} of this kind.")


def _about(
    targets: list[VisibleThing], reasoning_type: str, texts: tuple[str, ...], think: str, **words: str
) -> Iterator[OtherQuestion]:
    if 2 <= len(targets) <= SEVERAL_MOST and all(one.is_target for one in targets):
        ordered = tuple(sorted(targets, key=lambda one: (-one.area, one.index)))
        asked = tuple(text.format(**words) for text in texts)
        counted = NUMBERS[len(ordered)]
        yield OtherQuestion(reasoning_type, ordered, asked, think.format(n=counted), f"These {counted}.")


def _in_half(members: list[VisibleThing], half: str, axis: int, far: bool, camera: Camera) -> Iterator[OtherQuestion]:
    """Those wholly in one half of the picture, where no other of the kind reaches into it."""
    middle = (camera.width, camera.height)[axis] / 2
    inside = [one for one in members if (one.box[axis] >= middle if far else one.box[axis + 2] <= middle)]
    outside = [one for one in members if (one.box[axis + 2] <= middle if far else one.box[axis] >= middle)]
    if outside and len(inside) + len(outside) == len(members):
        kinds = plural(members[0].thing.kind)
        think = f"There are {{n}} {kinds} in the {half} half."
        yield from _about(inside, "spatial", ALL_IN_HALF, think, k=kinds, h=half)


def _is_distinct(colour: str, members: list[VisibleThing]) -> bool:
    """Whether no other colour that occurs may look like it in some light."""
    return not any(frozenset((one.thing.colour, colour)) in CONFUSABLE for one in members)


# -- none --------------------------------------------------------------------------------------
LIKELY_KINDS = (*VEHICLES, "building", "tree", "pool")
NOTHING = "There is none."


def none_questions(things: list[Thing]) -> Iterator[OtherQuestion]:
    """Questions about what a scene does not hold, not even out of sight, among them such as come near to what it holds.

    Args:
        things: all of the scene, seen or not.
    """
    kinds = {thing.kind for thing in things}
    for kind, colours in (*((one, VEHICLE_COLOURS) for one in VEHICLES), ("building", ROOF_COLOURS)):
        seen = {thing.colour for thing in things if thing.kind == kind}
        for colour in colours if seen else ():
            if colour in seen or any(frozenset((colour, one)) in CONFUSABLE for one in seen):
                continue
            texts = COLOUR_QUESTIONS.get(kind, COLOUR_QUESTIONS[""])
            asked = tuple(text.format(c=colour, k=kind) for text in texts)
            yield OtherQuestion("attribute", (), asked, f"No {kind} here is {colour}.", NOTHING)
    for kind in LIKELY_KINDS:
        if kind in kinds:
            continue
        edges = tuple(text.format(k=kind) for *_, texts in EDGES.values() for text in texts)
        yield OtherQuestion("spatial", (), edges, f"There is no {kind}.", NOTHING)
        near = tuple(
            text.format(k=kind, a=anchor)
            for anchor in ("building", "tree", "pool")
            if anchor in kinds
            for text in (*NEAR_QUESTIONS, *FAR_QUESTIONS)
        )
        if near:
            yield OtherQuestion("spatial", (), near, f"There is no {kind}.", NOTHING)
    for role in ROLES.values():
        if not any(role.fits(thing) for thing in things):
            yield OtherQuestion("scene", (), role.questions, "Nothing here fits that.", NOTHING)


# -- choice ------------------------------------------------------------------------------------
def choose_other_questions(
    visible: list[VisibleThing], things: list[Thing], camera: Camera, number: int, rng: np.random.Generator
) -> dict[str, tuple[OtherQuestion, str]]:
    """At most one question with several targets and one without, each with its wording; the types are equally likely.

    Args:
        visible: what the picture shows.
        things: all of the scene.
        number: of the picture; the types take turns with it.
        rng: drawn from by nothing else.
    """
    found: dict[str, tuple[OtherQuestion, str]] = {}
    wanted = {"several": list(several_questions(visible, camera))}
    if number * NONE_TURN[0] % NONE_TURN[1] < NONE_TURN[0]:
        wanted["none"] = list(none_questions(things))
    for kind, possible in wanted.items():
        types = sorted({one.reasoning_type for one in possible})
        if types:
            drawn = types[int(rng.integers(len(types)))]
            of_type = [one for one in possible if one.reasoning_type == drawn]
            chosen = of_type[int(rng.integers(len(of_type)))]
            found[kind] = chosen, str(rng.choice(chosen.questions))
    return found
