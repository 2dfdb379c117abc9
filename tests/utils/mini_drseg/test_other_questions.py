"""utils.mini_drseg.other_questions: questions that several things answer, and such that nothing does."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.utils.mini_drseg.drawn import PICTURES, Drawn, contents
from utils.datasets.registry import load_dataset
from utils.mini_drseg.generate import REASONING_TYPES, generate
from utils.mini_drseg.other_questions import SEVERAL_MOST, OtherQuestion, none_questions, several_questions
from utils.mini_drseg.planner import VEHICLE_COLOURS
from utils.mini_drseg.visibility import visible_things


def of_kind(many: list[Drawn], kind: str) -> list[tuple[Drawn, OtherQuestion, str]]:
    return [(one, *one.others[kind]) for one in many if kind in one.others]


def test_one_question_in_ten_has_no_target_and_all_types_have_some(many: list[Drawn]) -> None:
    several, none = of_kind(many, "several"), of_kind(many, "none")
    share = len(none) / (3 * PICTURES + len(several) + len(none))
    assert 0.085 < share < 0.115 and len(several) > 0.8 * PICTURES
    for found in (several, none):
        counts = Counter(other.reasoning_type for _, other, _ in found)
        assert set(counts) == set(REASONING_TYPES) and min(counts.values()) > 0.1 * len(found), counts


def test_several_targets_are_all_that_fit_and_the_largest_is_first(many: list[Drawn]) -> None:
    for one, other, question in of_kind(many, "several"):
        assert 2 <= len(other.targets) <= SEVERAL_MOST and question in other.questions
        areas = [target.area for target in other.targets]
        assert areas == sorted(areas, reverse=True) and all(target.polygons for target in other.targets)
        seen = visible_things(one.scene, one.picture)
        kinds = {target.thing.kind for target in other.targets}
        if other.reasoning_type == "attribute":
            (kind,) = kinds
            alike = [thing for thing in seen if thing.thing.kind == kind]
            named = [colour for colour in VEHICLE_COLOURS if f"{colour} " in question or f"are {colour}" in question]
            fitting = [thing for thing in alike if not named or thing.thing.colour in named]
            assert {thing.index for thing in fitting} == {target.index for target in other.targets}, question


def test_those_of_a_half_lie_in_it_and_no_other_reaches_into_it(many: list[Drawn]) -> None:
    checked = 0
    for one, other, question in of_kind(many, "several"):
        if other.reasoning_type != "spatial":
            continue
        half = next(word for word in ("left", "right", "top", "bottom") if f"the {word} half" in question)
        camera, axis = one.scene.camera, int(half in ("top", "bottom"))
        middle = (camera.width, camera.height)[axis] / 2
        chosen = {target.index for target in other.targets}
        for thing in visible_things(one.scene, one.picture):
            if thing.thing.kind == other.targets[0].thing.kind:
                low, high = thing.box[axis], thing.box[axis + 2]
                inside = high <= middle if half in ("left", "top") else low >= middle
                assert inside == (thing.index in chosen) and (high <= middle or low >= middle)
                checked += 1
    assert checked > 10


def test_what_is_not_there_is_not_even_out_of_sight(many: list[Drawn]) -> None:
    for one, other, question in of_kind(many, "none"):
        assert other.targets == () and other in list(none_questions(one.scene.things))
        things = one.scene.things
        if other.reasoning_type == "spatial":
            asked = other.think.removeprefix("There is no ").removesuffix(".")
            assert asked in question and asked not in {thing.kind for thing in things}
        if other.reasoning_type == "attribute":
            kind, colour = other.think.removeprefix("No ").removesuffix(".").split(" here is ")
            assert colour in question and kind in question
            colours = {thing.colour for thing in things if thing.kind == kind}
            assert colours and colour not in colours  # there are others of the kind, so that it has to be looked for


def test_no_question_is_made_where_one_thing_answers_it(many: list[Drawn]) -> None:
    for one in many[:20]:
        for other in several_questions(visible_things(one.scene, one.picture), one.scene.camera):
            assert len({target.index for target in other.targets}) == len(other.targets) >= 2


def test_the_questions_with_one_target_are_the_same_with_and_without_the_others(folder: Path, tmp_path: Path) -> None:
    generate(tmp_path / "all", {"train": 12, "val": 6, "test": 5}, seed=3, workers=1)
    every, alone = contents(tmp_path / "all"), contents(folder)
    pictures = [name for name in alone if name.endswith(".jpg")]
    assert all(every[name] == alone[name] for name in pictures)
    for split in ("train", "val", "test"):
        records = [json.loads((root / f"labels/DRSeg_{split}.json").read_text()) for root in (folder, tmp_path / "all")]
        assert [one for one in records[1] if len(one["ann_list"]) == 1] == records[0]
        assert len(records[1]) > len(records[0])


def test_they_are_read_as_drseg_is(tmp_path: Path) -> None:
    generate(tmp_path / "others", {"train": 12, "val": 3}, workers=1, kinds=("several", "none"))
    samples = load_dataset(tmp_path / "others", "train")
    assert {len(sample.targets) > 0 for sample in samples} == {True, False}
    assert all(len(sample.targets) != 1 and sample.groups["reasoning_type"] in REASONING_TYPES for sample in samples)
    nothing = [sample for sample in samples if not sample.targets]
    assert all(sample.answer.endswith("<answer>There is none.</answer>") for sample in nothing)
    pictures = {path.stem for path in (tmp_path / "others/CODrone/DRtrain").iterdir()}
    assert pictures == {sample.record_id for sample in samples}  # one without such a question is not written


@pytest.mark.parametrize("kinds", [("none",), ("several",)])
def test_a_set_of_one_kind_holds_that_alone(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    generate(tmp_path / "one", {"train": 9}, workers=1, kinds=kinds)
    records = json.loads((tmp_path / "one/labels/DRSeg_train.json").read_text())
    assert records and all(bool(one.get("no_target")) == (kinds == ("none",)) for one in records)
    assert np.all([(len(one["ann_list"]) > 1) == (kinds == ("several",)) for one in records])
