"""utils.mini_drseg.questions: each picks out one thing, and the picture is needed to find it."""

from __future__ import annotations

import re
from collections import defaultdict

import numpy as np

from tests.utils.mini_drseg.drawn import PICTURES, Drawn
from utils.datasets.base import Sample, target_masks
from utils.mini_drseg.questions import GROUPS, place_sentence
from utils.mini_drseg.visibility import visible_things


def test_answers_have_a_thought_and_an_answer(samples: dict[str, list[Sample]]) -> None:
    for sample in sum(samples.values(), []):
        assert re.fullmatch(r"<think>[^<>]+\.</think><answer>[^<>]+\.</answer>", sample.answer), sample.answer
        assert re.fullmatch(r"[A-Z][^<>]+[.?]", sample.question), sample.question


def test_questions_of_a_picture_have_targets_of_their_own(samples: dict[str, list[Sample]]) -> None:
    for found in samples.values():
        by_picture = defaultdict(list)
        for sample in found:
            by_picture[sample.image_path].append(sample)
        for asked in by_picture.values():
            masks = np.concatenate([target_masks(sample, sample.height, sample.width) for sample in asked])
            # contours meet along an edge, no more
            assert len({sample.question for sample in asked}) == len(asked)
            assert (masks.sum(axis=0) > 1).sum() < 0.1 * min(mask.sum() for mask in masks)


def test_most_targets_are_small(many: list[Drawn]) -> None:
    shares = np.array([one.mask(candidate).mean() for one in many for _, candidate, _ in one.asked])
    assert len(shares) == 3 * PICTURES
    assert (shares < 0.02).mean() >= 0.58
    assert (shares < 0.02).mean() <= 0.85 and shares.max() > 0.05  # and some are not


def test_every_target_has_distractors(many: list[Drawn]) -> None:
    """Things that could be meant instead show in the same picture."""
    for one in many:
        seen = visible_things(one.scene, one.picture)
        for kind, candidate, question in one.asked:
            others = [s.thing for s in seen if s.index != candidate.target.index]
            thing = candidate.target.thing
            assert len(others) >= 2
            if kind == "attribute":
                same = [other for other in others if other.kind == thing.kind]
                assert same
                if "largest" not in question and candidate.family.endswith("size") is False:
                    assert all(other.colour != thing.colour for other in same), question
            if kind == "spatial":
                alike = [kinds for name, kinds in GROUPS.items() if re.search(rf"\b{name}\b", question)]
                assert any(thing.kind in kinds and any(o.kind in kinds for o in others) for kinds in alike), question


def test_a_question_alone_does_not_say_where(many: list[Drawn]) -> None:
    """Asked of several pictures, it has its targets in several places; of one picture, several questions."""
    places = defaultdict(list)
    for one in many:
        assert len({candidate.target.index for _, candidate, _ in one.asked}) == 3
        size = (one.scene.camera.width, one.scene.camera.height)
        for _, candidate, question in one.asked:
            places[question].append(candidate.target.centre / size)
    often = {question: np.array(found) for question, found in places.items() if len(found) >= 3}
    assert len(often) >= 8
    edges = re.compile(r"left|right|top|bottom|highest|lowest")
    spreads = [np.ptp(found, axis=0).max() for found in often.values()]
    free = [np.ptp(found, axis=0).max() for question, found in often.items() if not edges.search(question)]
    assert min(spreads) > 0.02 and np.median(spreads) > 0.3 and free and np.median(free) > 0.4


def test_edges_are_those_of_the_picture(many: list[Drawn]) -> None:
    """`leftmost` and its like, worked out again from all pixels of the kind that is asked for."""
    axes = {"left": (0, min), "right": (0, max), "top": (1, min), "bottom": (1, max)}
    tried = 0
    for one in many:
        for _, candidate, question in one.asked:
            if not candidate.family.startswith("edge "):
                continue
            axis, extreme = axes[candidate.family.removeprefix("edge ")]
            (kinds,) = [kinds for name, kinds in GROUPS.items() if re.search(rf"\b{name}\b", question)]
            found = {}
            for index, thing in enumerate(one.scene.things):
                pixels = np.nonzero(one.picture.ids == index + 1)
                if thing.kind in kinds and len(pixels[0]) >= 10:
                    found[index] = pixels[1 - axis].mean()
            assert len(found) > 1 and extreme(found, key=found.get) == candidate.target.index, question
            tried += 1
    assert tried > 10


def test_a_drawn_answer_names_the_ninth_in_which_its_target_lies(many: list[Drawn]) -> None:
    met = set()
    for drawn in many:
        for _, candidate, _ in drawn.asked:
            mask = drawn.mask(candidate)
            rows, columns = mask.nonzero()
            y, x = (3 * (at.mean() + 0.5) / side for at, side in zip((rows, columns), mask.shape, strict=True))
            if min(abs(v - edge) for v in (x, y) for edge in (1, 2)) < 0.05:
                continue  # polygons round pixels off
            place = f"{('top', 'middle', 'bottom')[int(y)]} {('left', 'middle', 'right')[int(x)]} part"
            met.add(place)
            found = place_sentence(candidate.target, drawn.scene.camera)
            assert found == f"It is in the {'middle' if place == 'middle middle part' else place} of the picture."
    assert len(met) == 9
