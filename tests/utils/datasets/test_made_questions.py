"""utils.datasets.made_questions: what is asked of labels, and what is not because it would not be clear."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from utils.datasets.made_questions import WORDINGS, MadeQuestion, MakeOptions, Thing, make_questions
from utils.datasets.mask_colours import COLOURS, Colours, colour_map, mask_colours

SIZE = (100, 200)  # height and width


def thing(x: float, y: float, area: float = 100.0, side: float = 0.1, category: str = "roof", **fields: Any) -> Thing:
    """One around (x, y), shares of the picture."""
    half = side / 2
    return Thing(category, area, (x, y), (x - half, y - half, x + half, y + half), **fields)


def colours(**shares: float) -> Colours:
    return Colours(shares, shares)


def slugs(things: list[Thing], *kinds: str, **options: Any) -> dict[str, MadeQuestion]:
    made = make_questions("a.jpg", SIZE, things, options=MakeOptions(kinds=kinds, most_places=99, **options))
    return {one.slug: one for one in made}


def test_all_are_asked_each_on_its_own_or_together_where_they_are_many() -> None:
    things = [thing(0.2, 0.2), thing(0.5, 0.5), thing(0.8, 0.8), thing(0.5, 0.8, category="pond")]
    made = slugs(things, "all")
    assert {slug: one.things for slug, one in made.items()} == {"every:roof": (0, 1, 2), "only:pond": (3,)}
    together = slugs(things, "all", most_targets=2)["covered:roof"]
    assert together.things == (0, 1, 2) and together.together


@pytest.mark.parametrize(
    ("areas", "expected"),
    [
        ((100, 200, 400), {"largest:roof": (2,), "smallest:roof": (0,)}),
        ((100, 120, 400), {"largest:roof": (2,)}),
        ((100, 300, 390), {"smallest:roof": (0,), "largest:roof": (2,)}),
        ((100, 300, 389), {"smallest:roof": (0,)}),
        ((400, 400, 400), {}),
    ],
)
def test_sizes_are_asked_where_they_differ_by_three_tenths(areas: tuple, expected: dict) -> None:
    things = [thing(0.2 + 0.3 * i, 0.5, area) for i, area in enumerate(areas)]
    assert {slug: one.things for slug, one in slugs(things, "size").items()} == expected


def test_what_the_edge_cuts_is_not_called_the_smallest() -> None:
    things = [thing(0.05, 0.5, 100), thing(0.5, 0.5, 400)]
    assert list(slugs(things, "size")) == ["largest:roof"]


def test_places_are_asked_where_one_lies_clearly_nearer() -> None:
    made = slugs([thing(0.2, 0.2), thing(0.5, 0.5), thing(0.8, 0.9)], "place")
    assert {slug.split(":")[2]: one.things[0] for slug, one in made.items()} == {
        "the upper left corner": 0,
        "the lower left corner": 0,
        "the lower right corner": 2,
        "the centre of the picture": 1,
        "farthest to the left": 0,
        "farthest to the right": 2,
        "nearest to the top edge": 0,
        "nearest to the bottom edge": 2,
    }
    close = slugs([thing(0.2, 0.2), thing(0.22, 0.22)], "place")
    assert not close
    long = slugs([thing(0.3, 0.5, side=0.5), thing(0.2, 0.5, side=0.1)], "place")  # its middle lies right, its end left
    assert "outermost:roof:farthest to the left" not in long


def test_as_many_places_are_asked_as_the_options_say() -> None:
    things = [thing(0.2, 0.2), thing(0.8, 0.9)]
    assert len(make_questions("a.jpg", SIZE, things, options=MakeOptions(kinds=("place",), most_places=3))) == 3


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ((0.9, 0.1, 0.0), {"coloured:roof:blue": (0,)}),
        ((0.9, 0.8, 0.0), {"every coloured:roof:blue": (0, 1)}),
        ((0.9, 0.4, 0.0), {}),  # somebody might call the second one blue
        ((0.5, 0.1, 0.0), {}),
        ((0.9, 0.9, 0.9), {}),  # "the blue roofs" are all of them
    ],
)
def test_colours_are_asked_where_the_others_are_clearly_of_another(shares: tuple, expected: dict) -> None:
    things = [thing(0.2 + 0.3 * i, 0.5, colours=colours(blue=share)) for i, share in enumerate(shares)]
    assert {slug: one.things for slug, one in slugs(things, "colour").items()} == expected


def test_colours_that_were_not_looked_at_are_not_asked() -> None:
    assert not slugs([thing(0.2, 0.5, colours=colours(blue=1)), thing(0.8, 0.5)], "colour", "none")


def test_what_is_absent_is_asked_only_where_it_is_wanted() -> None:
    things = [thing(0.2, 0.5, colours=colours(blue=0.9, red=0.2)), thing(0.8, 0.5, colours=colours(white=1))]
    usual = make_questions("a.jpg", SIZE, things, known=["pond", "roof"])
    assert usual and all(one.things for one in usual)
    asked = {
        make_questions("a.jpg", SIZE, things, ["pond", "roof"], options=MakeOptions(("none",), seed))[0]
        for seed in range(40)
    }
    assert {one.slug for one in asked} == {"absent kind:pond", "absent:roof:green", "absent:roof:yellow"}
    assert all(one.things == () for one in asked)


def test_the_same_seed_asks_in_the_same_words_and_another_in_others() -> None:
    things = [thing(0.2, 0.2), thing(0.8, 0.9, 400)]

    def texts(seed: int, picture: str = "a.jpg") -> list[str]:
        return [one.text for one in make_questions(picture, SIZE, things, options=MakeOptions(seed=seed))]

    assert texts(0) == texts(0)
    assert (
        len({tuple(texts(seed)) for seed in range(8)}) > 1 and len({tuple(texts(0, name)) for name in "abcdefgh"}) > 1
    )


def test_no_wording_asks_two_things_alike() -> None:
    assert all(len(set(texts)) == len(texts) for texts in WORDINGS.values())


@pytest.mark.parametrize(
    ("rgb", "clear", "loose"),
    [
        ((200, 30, 30), {"red"}, {"red"}),
        ((230, 210, 40), {"yellow"}, {"yellow"}),
        ((40, 150, 50), {"green"}, {"green"}),
        ((30, 60, 200), {"blue"}, {"blue"}),
        ((250, 250, 245), {"white"}, {"white"}),
        ((120, 120, 120), set(), set()),
        ((200, 120, 40), set(), {"red"}),  # orange is red or yellow to some
        ((150, 165, 185), set(), set()),  # grey with a little blue
        ((10, 10, 60), set(), {"blue"}),  # nearly black
    ],
)
def test_colours_have_a_core_and_a_wide_range(rgb: tuple, clear: set, loose: set) -> None:
    found = mask_colours(colour_map(np.full((2, 2, 3), rgb, np.uint8)).reshape(-1))
    assert {name for name, share in found.clear.items() if share} == clear
    assert {name for name, share in found.loose.items() if share} >= loose
    assert {name for name, share in found.loose.items() if share} <= loose | (
        {"yellow"} if rgb[1] == 120 != rgb[0] else set()
    )


def test_no_pixel_is_clearly_of_two_colours() -> None:
    values = np.stack(np.meshgrid(*[np.arange(0, 256, 15, dtype=np.uint8)] * 3), axis=-1).reshape(-1, 1, 3)
    bits = colour_map(values)
    assert max(sum(bits >> (2 * i) & 1 for i in range(len(COLOURS))).max(), 0) == 1
    for i in range(len(COLOURS)):  # what is clearly of a colour is loosely of it
        assert not ((bits >> (2 * i) & 1) & ~(bits >> (2 * i + 1)) & 1).any()
