"""Questions about a rendered scene, each of which has exactly one visible thing as its target.

Uniqueness is judged against everything that is visible, even a few pixels at the border; targets must
be visible for the most part. Relations between things need a clear margin, in the picture and on the ground.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from utils.mini_drseg.scene import FLAT_KINDS, VEHICLES, Camera, Thing
from utils.mini_drseg.visibility import VisibleThing

CONFUSABLE = {frozenset(p) for p in (("white", "grey"), ("grey", "black"), ("red", "brown"))}
PLURALS = {"bus": "buses"}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")


@dataclass
class Candidate:
    """A possible question and its answer.

    Attributes:
        family: questions alike share one; families are drawn first, so that a large one is not drawn more often.
        questions: wordings, of which one is asked.
        think: the reasoning of the answer.
    """

    target: VisibleThing
    family: str
    questions: tuple[str, ...]
    think: str
    answer: str


# -- words -------------------------------------------------------------------------------------
def plural(kind: str) -> str:
    """The plural of a kind."""
    return PLURALS.get(kind, kind + "s")


def _count_sentence(count: int, kind: str) -> str:
    if count >= len(NUMBERS):
        return f"There are many {plural(kind)}."
    return f"There are {NUMBERS[count]} {plural(kind)}."


def _name(thing: Thing) -> str:
    """The noun phrase for a thing in an answer."""
    if thing.kind in ("pool", "crossing", "person"):
        return {"crossing": "zebra crossing"}.get(thing.kind, thing.kind)
    if thing.kind == "building":
        return f"building with the {thing.colour} roof"
    return f"{thing.colour} {thing.kind}"


def _of_kinds(visible: list[VisibleThing], *kinds: str) -> list[VisibleThing]:
    """Those of the given kinds."""
    return [one for one in visible if one.thing.kind in kinds]


# -- attribute ---------------------------------------------------------------------------------
COLOUR_QUESTIONS = {
    "building": (
        "Find the building with the {c} roof.",
        "Which building has a {c} roof?",
        "Segment the building under the {c} roof.",
        "Show the building with a {c} roof.",
        "Where is the building with the {c} roof?",
    ),
    "tree": (
        "Which tree has {c} leaves?",
        "Find the tree with {c} leaves.",
        "Segment the tree with the {c} leaves.",
        "Where is the {c} tree?",
    ),
    "": (
        "Segment the {c} {k}.",
        "Which {k} is {c}?",
        "Find the {k} that is {c}.",
        "Where is the {c} {k}?",
        "Show the {c} {k}.",
        "Mark the {k} painted {c}.",
    ),
}
SIZE_QUESTIONS = {
    "largest": ("Which {k} is the largest?", "Find the largest {k}.", "Segment the biggest {k}.",
                "Show the {k} that is bigger than the others."),
    "smallest": ("Which {k} is the smallest?", "Find the smallest {k}.", "Mark the smallest {k}.",
                 "Show the {k} that is smaller than the others."),
}  # fmt: skip
SIZED_KINDS = ("building", "tree", "pool")


def attribute_questions(visible: list[VisibleThing], camera: Camera) -> Iterator[Candidate]:
    """Questions by colour or size, where another thing of the target's kind is visible."""
    del camera  # the other types of question need it
    for target in visible:
        others = [one for one in _of_kinds(visible, target.thing.kind) if one is not target]
        if not target.is_target or not others:
            continue
        kind, colour = target.thing.kind, target.thing.colour
        if kind not in FLAT_KINDS and kind != "person" and _is_only(colour, others):
            texts = COLOUR_QUESTIONS.get(kind, COLOUR_QUESTIONS[""])
            phrase = {"building": "has a {} roof", "tree": "has {} leaves"}.get(kind, "is {}")
            think = f"{_count_sentence(len(others) + 1, kind)} Only one {phrase.format(colour)}."
            yield Candidate(
                target,
                kind,
                tuple(t.format(c=colour, k=kind) for t in texts),
                think,
                f"The {_name(target.thing)}.",
            )
        if kind in SIZED_KINDS:
            yield from _size_questions(target, others)


def _is_only(colour: str, others: list[VisibleThing]) -> bool:
    """Whether no other thing has this colour or one that may look like it in some light."""
    colours = {other.thing.colour for other in others}
    return not any(each == colour or frozenset((each, colour)) in CONFUSABLE for each in colours)


def _size_questions(target: VisibleThing, others: list[VisibleThing]) -> Iterator[Candidate]:
    def size(one: VisibleThing) -> tuple[float, float]:
        return one.area, one.thing.length * one.thing.width  # pixels, square metres

    kind = target.thing.kind
    for word, sign in (("largest", 1), ("smallest", -1)):
        if not all(other.is_target for other in others):
            continue  # one that is cut off could be larger than it looks
        if all((a / b) ** sign > 1.5 for other in others for a, b in zip(size(target), size(other), strict=True)):
            think = f"{_count_sentence(len(others) + 1, kind)} One is clearly the {word}."
            texts = tuple(t.format(k=kind) for t in SIZE_QUESTIONS[word])
            yield Candidate(target, f"{kind} size", texts, think, f"The {word} {kind}.")


# -- spatial -----------------------------------------------------------------------------------
# edge -> axis of the picture; sign, by which the thing at that edge has the smallest value; word; questions
EDGES = {
    "left": (0, 1, "left", ("Find the leftmost {k}.", "Which {k} is farthest left?",
                            "Segment the {k} closest to the left edge.",
                            "Which {k} is nearest to the left side?")),
    "right": (0, -1, "right", ("Find the rightmost {k}.", "Which {k} is farthest right?",
                               "Segment the {k} closest to the right edge.",
                               "Which {k} is nearest to the right side?")),
    "top": (1, 1, "top", ("Find the {k} at the top.", "Which {k} is highest in the picture?",
                          "Segment the {k} closest to the top edge.",
                          "Which {k} is nearest to the top of the picture?")),
    "bottom": (1, -1, "bottom", ("Find the {k} at the bottom.",
                                 "Which {k} is lowest in the picture?",
                                 "Segment the {k} closest to the bottom edge.",
                                 "Which {k} is nearest to the bottom of the picture?")),
}  # fmt: skip
NEAR_QUESTIONS = (
    "Which {k} is nearest to the {a}?",
    "Find the {k} closest to the {a}.",
    "Segment the {k} next to the {a}.",
    "Show the {k} nearest the {a}.",
)
FAR_QUESTIONS = (
    "Which {k} is farthest from the {a}?",
    "Find the {k} farthest from the {a}.",
    "Segment the {k} that is farthest from the {a}.",
    "Show the {k} farthest from the {a}.",
)
# word in a question -> the kinds that it covers
GROUPS = {
    **{k: (k,) for k in (*VEHICLES, "building", "tree", "container", "pool", "stall", "person")},
    "vehicle": VEHICLES,
}
ANCHORS = ("pool", "crossing", "bus", "truck", "building", "container", "stall", "tree")


def spatial_questions(visible: list[VisibleThing], camera: Camera) -> Iterator[Candidate]:
    """Relations to the edges of the picture and to a thing that is the only one of its kind."""
    for group, kinds in GROUPS.items():
        members = _of_kinds(visible, *kinds)
        if group == "vehicle" and len({member.thing.kind for member in members}) < 2:
            continue  # the kind's own name is used instead
        if len(members) < 2:
            continue
        yield from _edge_questions(group, members, camera)
        for anchor_kind in ANCHORS:
            anchors = _of_kinds(visible, anchor_kind)
            if len(anchors) == 1 and anchor_kind not in kinds and anchors[0].is_target:
                yield from _distance_questions(group, members, anchors[0], camera)


def _edge_questions(group: str, members: list[VisibleThing], camera: Camera) -> Iterator[Candidate]:
    for edge, (axis, sign, word, texts) in EDGES.items():
        ranked = sorted(members, key=lambda member: sign * member.centre[axis])
        target, second = ranked[:2]
        gap = abs(target.centre[axis] - second.centre[axis])
        outermost = min(members, key=lambda member: _edge_position(member, axis, sign))
        if target.is_target and outermost is target and gap > 0.07 * (camera.width, camera.height)[axis]:
            think = f"{_count_sentence(len(members), group)} This one is nearest to the {word} edge."
            questions = tuple(t.format(k=group) for t in texts)
            yield Candidate(target, f"edge {edge}", questions, think, f"The {_name(target.thing)}.")


def _edge_position(one: VisibleThing, axis: int, sign: int) -> float:
    """The side of a thing's box at an edge of the picture, in pixels; smaller is nearer to the edge."""
    return one.box[axis] if sign > 0 else -one.box[axis + 2]


def _distance_questions(
    group: str, members: list[VisibleThing], anchor: VisibleThing, camera: Camera
) -> Iterator[Candidate]:
    """Nearest and farthest by distance in the picture and on the ground alike."""
    image_distances = [float(np.linalg.norm(member.centre - anchor.centre)) for member in members]
    ground_distances = [_ground_distance(member.thing, anchor.thing) for member in members]
    name = {"crossing": "zebra crossing"}.get(anchor.thing.kind, anchor.thing.kind)
    min_gap = 0.07 * camera.width
    for texts, word, sign in ((NEAR_QUESTIONS, "nearest to", 1), (FAR_QUESTIONS, "farthest from", -1)):
        order = np.argsort(np.array(image_distances) * sign)
        first, second = int(order[0]), int(order[1])
        target = members[first]
        ratio = (image_distances[second] / image_distances[first]) ** sign
        agrees = first == int(np.argmin(np.array(ground_distances) * sign))
        ranked = sorted(distance * sign for distance in ground_distances)
        agrees = agrees and ranked[1] - ground_distances[first] * sign > 0.8
        distinct = ratio > 1.3 and abs(image_distances[second] - image_distances[first]) > min_gap
        if not (target.is_target and agrees and distinct):
            continue
        if sign < 0 and not all(member.is_target for member in members):
            continue  # a thing at the border may be farther than it looks
        think = f"{_count_sentence(len(members), group)} This one is {word} the {name}."
        questions = tuple(t.format(k=group, a=name) for t in texts)
        yield Candidate(target, word, questions, think, f"The {_name(target.thing)}.")


def _ground_distance(a: Thing, b: Thing) -> float:
    """Shortest distance between the rims of two footprints in metres, from points on each."""
    steps = np.linspace(0, 1, 9)[:, None]
    rims = []
    for thing in (a, b):
        quad = thing.footprint()
        rims.append(np.concatenate([p + steps * (q - p) for p, q in zip(quad, np.roll(quad, -1, 0), strict=True)]))
    return float(np.linalg.norm(rims[0][:, None] - rims[1][None], axis=2).min())


# -- scene -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Role:
    """What a thing is used for or does in the scene; asked about if exactly one visible thing fits."""

    fits: Callable[[Thing], bool]
    questions: tuple[str, ...]
    think: str


def _has_kind(kind: str) -> Callable[[Thing], bool]:
    return lambda thing: thing.kind == kind


def _has_tag(tag: str) -> Callable[[Thing], bool]:
    return lambda thing: tag in thing.tags


ROLES = {
    "blocks": Role(
        _has_tag("on_crossing"),
        ("Which vehicle blocks the crossing?", "What stands in the way of people who cross?",
         "Which vehicle has to move so that people can cross?",
         "Find the vehicle that should not stop on the zebra crossing."),
        "A vehicle stands on the zebra crossing, so people can not cross there.",
    ),
    "off_road": Role(
        _has_tag("on_grass"),
        ("Which vehicle is parked off the road?", "Find the vehicle that has left the road.",
         "Which vehicle is not on the road or in a parking place?",
         "What would have to drive over open ground to get back to the road?"),
        "The other vehicles keep to the road. This one stands on open ground.",
    ),
    "across": Role(
        _has_tag("across"),
        ("Which car stands across the lane?", "Which car stops the traffic?",
         "Find the car that is turned the wrong way for the road.",
         "Which car has to move so that traffic can pass?"),
        "Traffic follows the lanes. One car is turned across the road and stops it.",
    ),
    "ambulance": Role(
        _has_tag("ambulance"),
        ("Which vehicle would take a sick person to hospital?",
         "What should come when a person is sick?",
         "Find the vehicle that helps sick people.", "Which van has to get past all traffic?"),
        "A van with a red cross and a blue light is an ambulance.",
    ),
    "swim": Role(
        _has_kind("pool"),
        ("What would a child swim in?", "Where can people swim?",
         "Where would you go on a hot day to swim?", "Find the place that is full of water."),
        "People swim in water. The only water here is a pool.",
    ),
    "passengers": Role(
        _has_kind("bus"),
        ("Where could many passengers board?", "Which vehicle can carry the most people?",
         "What would take a school class to town?", "Find the vehicle that stops for passengers."),
        "Many people need a long vehicle with many seats, which is a bus.",
    ),
    "cargo": Role(
        _has_kind("truck"),
        ("Which vehicle could carry heavy cargo?", "What would bring goods to a shop?",
         "Which vehicle is made for heavy loads?", "Find the vehicle that carries goods."),
        "Heavy goods need a vehicle with a cab and a big box, which is a truck.",
    ),
    "shade": Role(
        _has_kind("tree"),
        ("What grows here and gives shade?", "Where would a bird build its nest?",
         "What has leaves and gives shade?", "Find the place where a bird could rest in leaves."),
        "A crown of leaves gives shade and a place for birds. Only one tree grows here.",
    ),
    "live": Role(
        _has_kind("building"),
        ("Where could people live?", "Which structure has walls, windows and a roof?",
         "Where would you go inside when it rains?", "Find the place where a family could sleep."),
        "People live under a roof with walls and windows. There is only one building.",
    ),
    "cross": Role(
        _has_kind("crossing"),
        ("Where should people cross the road?", "Where do cars have to stop for people?",
         "Find the safe place to cross the road.", "Where can a child walk over the road?"),
        "White stripes on the road mark the place to cross on foot.",
    ),
    "ship": Role(
        _has_kind("container"),
        ("What would a crane lift onto a ship?", "What is made to be stored on a ship?",
         "Find the metal box that goes by ship.", "Where could goods be locked in?"),
        "A long metal box without wheels is a container, which goes by ship.",
    ),
    "buy": Role(
        _has_kind("stall"),
        ("Where could you buy fruit?", "Where would a trader sell fruit?",
         "Find the place to buy fresh fruit.", "What protects a trader from the sun?"),
        "A striped cloth over a table is a stall where a trader sells fruit.",
    ),
}  # fmt: skip


def scene_questions(visible: list[VisibleThing], camera: Camera) -> Iterator[Candidate]:
    """Questions by role or use, which never name the thing itself."""
    del camera  # the other types of question need it
    for name, role in ROLES.items():
        fitting = [one for one in visible if role.fits(one.thing)]
        if len(fitting) == 1 and fitting[0].is_target:
            answer = "The ambulance." if name == "ambulance" else f"The {_name(fitting[0].thing)}."
            yield Candidate(fitting[0], name, role.questions, role.think, answer)


# -- place -------------------------------------------------------------------------------------
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "middle", "right")


def place_sentence(target: VisibleThing, camera: Camera) -> str:
    """In which ninth of the picture the middle of a thing lies."""
    x, y = (min(2, int(3 * at / side)) for at, side in zip(target.centre, (camera.width, camera.height), strict=True))
    if (x, y) == (1, 1):
        return "It is in the middle of the picture."
    return f"It is in the {ROWS[y]} {COLUMNS[x]} part of the picture."


# -- choice ------------------------------------------------------------------------------------
QUESTION_MAKERS = {
    "spatial": spatial_questions,
    "attribute": attribute_questions,
    "scene": scene_questions,
}
SMALL_SHARE = 0.02  # share of the frame under which a target is small
SMALL_PROBABILITY = {"spatial": 0.62, "attribute": 0.62, "scene": 0.62}  # that a small target is preferred


def choose_questions(
    visible: list[VisibleThing], camera: Camera, types: tuple[str, ...], rng: np.random.Generator
) -> list[Candidate] | None:
    """One question of each type about different targets, or None if the scene has no such set.

    Args:
        types: the reasoning types, in the order of the questions that are returned.
    """
    candidates_by_type: list[list[Candidate]] = []
    for kind in types:
        candidates = list(QUESTION_MAKERS[kind](visible, camera))
        candidates_by_type.append(_shuffle(candidates, camera, rng.random() < SMALL_PROBABILITY[kind], rng))
    for chosen in product(*candidates_by_type):
        if len({c.target.index for c in chosen}) == len(chosen):
            return list(chosen)
    return None


def _shuffle(candidates: list[Candidate], camera: Camera, small: bool, rng: np.random.Generator) -> list[Candidate]:
    """Candidates in random order by family: first the small ones, or first the others where not `small`."""
    families = sorted({c.family for c in candidates})
    rank = dict(zip(families, rng.permutation(len(families)), strict=True))
    limit = SMALL_SHARE * camera.width * camera.height
    keys = [((c.target.area < limit) != small, rank[c.family], rng.random()) for c in candidates]
    return [candidates[i] for i in sorted(range(len(keys)), key=keys.__getitem__)]
