"""Words for directions: those that change sides, those that stay, and those of which nobody can be sure."""

from __future__ import annotations

import pytest

from utils.datasets.loading.directions import HORIZONTAL_WORDS, VERTICAL_WORDS, Axis, is_clear, swap_direction_words

BOTH_AXES = (HORIZONTAL_WORDS, VERTICAL_WORDS)
ACROSS = [
    ("the leftmost car", "the rightmost car"),
    ("the left-most car", "the right-most car"),
    ("the lefthand car", "the righthand car"),
    ("the left-hand lane", "the right-hand lane"),
    ("on the left hand side", "on the right hand side"),
    ("the vehicle moving leftwards", "the vehicle moving rightwards"),
    ("leftward arrow", "rightward arrow"),
    ("the lane that has left-turn arrows", "the lane that has right-turn arrows"),
    ("the LEFT car", "the RIGHT car"),
    ("Left of the bus, right of the pool?", "Right of the bus, left of the pool?"),
    ("the top-left car", "the top-right car"),
    ("the car in the upper left corner", "the car in the upper right corner"),
    ("It left the road on the left side.", "It left the road on the right side."),
    ("cars from left to right", "cars from right to left"),
    ("the second car from the left", "the second car from the right"),
    ("On the left the car is red", "On the right the car is red"),
    ("turn right", "turn left"),
    ("the truck turning left at the crossing", "the truck turning right at the crossing"),
    ("the car facing right.", "the car facing left."),
    ("the bus's left side", "the bus's right side"),
    ("left and right lanes", "right and left lanes"),
    ("the left-turning car", "the right-turning car"),
    ("to the immediate left of the house", "to the immediate right of the house"),
    ("the right car", "the left car"),
    ("the topleft building", "the topright building"),
    ("TOP LEFT", "TOP RIGHT"),
    ("Left.", "Right."),
    ("the car going clockwise around the island", "the car going counterclockwise around the island"),
    ("the car going anti-clockwise", "the car going clockwise"),
    ("farthest left", "farthest right"),
    ("the two left cars", "the two right cars"),
    ("Left-Hand Lane", "Right-Hand Lane"),
    ("the car closest to the left", "the car closest to the right"),
    ("bottom_left", "bottom_right"),
    ("in the far right", "in the far left"),
    ("the car on the right behind the bus", "the car on the left behind the bus"),
    ("the left one", "the right one"),
    ("the lane for left turns", "the lane for right turns"),
    ("left lane of the road", "right lane of the road"),
    ("the car in the left lane", "the car in the right lane"),
    ("the car that is left of the bus", "the car that is right of the bus"),
    ("the car to the right of the one in front of the bus", "the car to the left of the one in front of the bus"),
    ("the car parked on the left next to the tree", "the car parked on the right next to the tree"),
    ("make a left turn", "make a right turn"),
    ("bottom right corner", "bottom left corner"),
    ("between the left and the right car", "between the right and the left car"),
    ("the left two cars", "the right two cars"),
    ("which of the cars on the right is red", "which of the cars on the left is red"),
    ("on its left", "on its right"),
    ("the car at left", "the car at right"),
    ("the white car left of centre", "the white car right of centre"),
]
UPRIGHT = [
    ("the uppermost car", "the lowermost car"),
    ("the lower of the two cars", "the upper of the two cars"),
    ("the top-left car", "the bottom-left car"),
    (
        "Which is highest, nearest to the top, above the left pool?",
        "Which is lowest, nearest to the bottom, below the left pool?",
    ),
    ("Find the car at the top.", "Find the car at the bottom."),
    ("the upper-left corner", "the lower-left corner"),
    ("the topmost one", "the bottommost one"),
    ("the bottom edge", "the top edge"),
    ("the car nearest the bottom of the picture", "the car nearest the top of the picture"),
    ("the top car", "the bottom car"),
    ("the lower red car", "the upper red car"),
    ("the UPPER LEFT", "the LOWER LEFT"),
    ("top to bottom", "bottom to top"),
    ("from the top to the bottom", "from the bottom to the top"),
    ("the top right of the image", "the bottom right of the image"),
    ("the car above the bus", "the car below the bus"),
    ("the bus going anticlockwise", "the bus going clockwise"),
    ("at the very top", "at the very bottom"),
    ("the upper and lower lanes", "the lower and upper lanes"),
    ("in the top half of the image", "in the bottom half of the image"),
    ("topleft", "bottomleft"),
    ("Which car is lowest in the picture?", "Which car is highest in the picture?"),
    ("the two top cars", "the two bottom cars"),
    ("the upper part of the frame", "the lower part of the frame"),
    ("the bottom center", "the top center"),
    ("the car moving upwards in the image", "the car moving downwards in the image"),
]
OTHER_SENSES = [
    "Find the vehicle that has left the road.",
    "the car that left the scene",
    "Which car is bright?",
    "the upright pole",
    "the man who has just left the bus",
]
UNCLEAR_ACROSS = [
    "the car that is left",
    "right now",
    "the car right behind the bus",
    "all right",
    "the right angle",
    "left over material",
    "what is left of the building",
    "what's left of the wall",
    "right-hand drive",
    "the right-hand-drive car",
    "left-handed traffic",
    "the right way",
    "people left behind",
    "the car parked right next to the pool",
    "turn right in front of the bus",
    "right of way",
    "the leftovers",
    "the right-angled corner",
    "the car turned right around",
    "the bus with the starboard damage",
    "the bag left alone",
    "it was left there",
    "human rights",
    "the car on the wrong side of the road",
    "the right answer",
    "the nearside lane",
    "the car that has left or right damage?",
    "the one with the right of way",
    "the car just left",
    "the right to park",
    "the right vehicle to transport sand",
    "the right one for the job",
    "the right and proper way",
    "the boat that is right side up",
    "the left-wing office",
    'the sign that says "turn left"',
    "the two left in the lot",
]
UNCLEAR_UPRIGHT = [
    "below average",
    "at top speed",
    "the car on the top floor",
    "the top of the building",
    "on top of the roof",
    "the highest building",
    "the bridge above the road",
    "seen from above",
    "the car parked under it",
    "the lower deck",
    "over there",
    "the car that slowed down",
    "lined up along the kerb",
    "the pickup backed up",
    "near the horizon",
    "in the background",
    "upside down",
    "the barrier was lowered",
    "the tree higher than the house",
    "the tank top",
    "the lower building",
    "over 3 m",
    "the car driving up the road",
    "upwards of 20 cars",
    "the person on the top of the truck",
    "the bottom of the pool",
    "the woman in the top and skirt",
    "the top three vehicles in size",
    "the top vehicle by speed",
    "the top container of the stack",
    "the lower lanes of the double-deck bridge",
    "the car below the bridge",
    "the umbrella above the man",
    "the plane flying above the field",
    "the top rated cars",
    "the lower court building",
]
LAID_OVER_THE_WORLD = [
    "the car on the north side",
    "the car at 3 o'clock",
    "the car at three o’clock",
    "the car heading NE",
    "左边的车",
    "on the 12 o'clock side",
    "on the southern bank",
    "the eastbound lane",
    "the car heading W",
    "la voiture à gauche",
    "el coche de la izquierda",
    "links oder rechts",
    "le\u00adft",
    "lef\u200bt",
]


@pytest.mark.parametrize(
    ("axis", "text", "expected"),
    [(HORIZONTAL_WORDS, *one) for one in ACROSS] + [(VERTICAL_WORDS, *one) for one in UPRIGHT],
)
def test_places_change_sides(axis: Axis, text: str, expected: str) -> None:
    assert is_clear(text, axis)
    assert swap_direction_words(text, axis) == expected
    assert is_clear(expected, axis)
    assert swap_direction_words(expected, axis) == text.replace("anti-", "counter").replace("anticlock", "counterclock")


@pytest.mark.parametrize("text", OTHER_SENSES)
def test_other_senses_stay(text: str) -> None:
    for axis in BOTH_AXES:
        assert is_clear(text, axis) and swap_direction_words(text, axis) == text


@pytest.mark.parametrize(
    ("axis", "text"),
    [(HORIZONTAL_WORDS, one) for one in UNCLEAR_ACROSS] + [(VERTICAL_WORDS, one) for one in UNCLEAR_UPRIGHT],
)
def test_what_is_not_sure_is_told(axis: Axis, text: str) -> None:
    assert not is_clear(text, axis)
    assert not is_clear(text.upper(), axis) and not is_clear(f"Which is {text}, the left one?", axis)


@pytest.mark.parametrize("text", LAID_OVER_THE_WORLD)
def test_compass_clock_and_other_scripts_keep_the_picture_as_it_is(text: str) -> None:
    assert not any(is_clear(text, axis) for axis in BOTH_AXES)


def test_every_drawn_question_is_understood() -> None:
    """`mini` is flipped, and what it was trained on has to stay."""
    for text, across, upright in [
        ("Which car is farthest left?", "Which car is farthest right?", None),
        ("Which tree is nearest to the right side?", "Which tree is nearest to the left side?", None),
        ("It is nearest to the bottom edge.", None, "It is nearest to the top edge."),
        ("Which van is nearest to the top of the picture?", None, "Which van is nearest to the bottom of the picture?"),
        ("Which pool is highest in the picture?", None, "Which pool is lowest in the picture?"),
        ("Find the truck at the bottom.", None, "Find the truck at the top."),
        ("Find the vehicle that has left the road.", None, None),
        ("Where can a child walk over the road?", None, None),
        ("What would have to drive over open ground to get back to the road?", None, None),
        ("Segment the building under the grey roof.", None, None),
        ("People live under a roof with walls.", None, None),
        ("A striped cloth over a table is a stall.", None, None),
        ("Find the car that is turned the wrong way for the road.", None, None),
    ]:
        assert all(is_clear(text, axis) for axis in BOTH_AXES)
        assert [swap_direction_words(text, axis) for axis in BOTH_AXES] == [across or text, upright or text]
