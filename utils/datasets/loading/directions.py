"""Words for directions in questions: which of them change sides when a picture is flipped.

A word changes sides where its surroundings say that it means a place in the picture ("the left car"), and stays
where they say that it means something else ("has left the road"). Anywhere else it is unclear ("right behind the
bus", "the top floor"): then nobody can say what to ask of the flipped picture, and `is_clear` is False.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Axis:
    """The words of one direction of flips.

    Args:
        pairs: words that stand for each other's opposite; the first pair that has a word counts.
        words: pattern of all that may name a direction of this axis, whatever it means there.
        places: patterns in which the group `word` means a place in the picture.
        others: patterns in which the group `word` surely means something else.
        unclear: patterns in which the group `word` is unclear although one of `places` matches.
        vetoes: patterns of texts that are unclear as a whole.
    """

    pairs: tuple[tuple[str, str], ...]
    words: str
    places: tuple[str, ...]
    others: tuple[str, ...]
    unclear: tuple[str, ...] = ()
    vetoes: tuple[str, ...] = ()

    @cached_property
    def opposites(self) -> dict[str, str]:
        """Each word's opposite."""
        return {a: b for pair in reversed(self.pairs) for a, b in (pair, pair[::-1])}

    @cached_property
    def compiled(self) -> list[list[re.Pattern[str]]]:
        """`words` alone, `places`, `others` and `unclear`."""
        kinds = (self.words,), self.places, self.others, self.unclear
        return [[re.compile(one, re.IGNORECASE) for one in kind] for kind in kinds]

    def understood(self, text: str) -> tuple[set[int], set[int]]:
        """Where the words begin that mean a place, and those that are unclear."""
        (words,), *kinds = self.compiled
        starts = {match.start() for match in words.finditer(text)}
        if not starts:
            return set(), set()
        found = [{match.start("word") for one in kind for match in one.finditer(text)} for kind in kinds]
        unclear = found[2] | (found[0] & found[1])
        return found[0] - unclear, (starts - found[0] - found[1]) | unclear


def swap_direction_words(text: str, axis: Axis) -> str:
    """The text with each word that means a place on this axis replaced by its opposite, in the same case."""
    words = re.compile("|".join(sorted(axis.opposites, key=len, reverse=True)), re.IGNORECASE)
    for start in sorted(axis.understood(text)[0], reverse=True):
        word = words.match(text, start)[0]
        other = axis.opposites[re.sub(r"\s", " ", word.lower())]
        if word.isupper():
            other = other.upper()
        elif word[0].isupper():
            other = other.capitalize()
        text = text[:start] + other + text[start + len(word) :]
    return text


def is_clear(text: str, axis: Axis) -> bool:
    """Whether every word of the text that may name a direction of this axis is understood; only Latin letters are."""
    fixed = (
        FIXED.search(text)
        or FIXED_LETTERS.search(text)
        or OTHER_LANGUAGES.search(text)
        or any(letter.isalpha() for letter in text if letter > "\u024f")
        or any(unicodedata.category(letter) == "Cf" for letter in text)  # unseen, within a word too
    )
    vetoed = any(re.search(pattern, text, re.IGNORECASE) for pattern in axis.vetoes)
    return not (fixed or vetoed or axis.understood(text)[1])


# A compass or a clock is laid over the world or the whole picture: a question with one keeps its picture as it is.
FIXED = re.compile(
    r"(?<![a-z])(?:(?:north|south)(?:[- ]?(?:east|west))?|east|west)(?:ern(?:most)?|erly|wards?|bound|most)?(?![a-z])"
    r"|o\s?['’`]?\s?clock(?!\w)|(?<![a-z])compass(?![a-z])",
    re.IGNORECASE,
)
FIXED_LETTERS = re.compile(
    r"(?<![A-Za-z'’])(?:[NS]|[NS]?[NS][EW]|[EW][NS][EW])(?![A-Za-z])"
    r"|\b(?:[Hh]eading|[Ff]acing|[Gg]oing|[Dd]riving|[Pp]ointing|[Tt]owards?|[Tt]o the)\s+[EW]\b|\b[EW]\s+of\b"
)
OTHER_LANGUAGES = re.compile(
    r"\b(?:gauche|droite|haut|bas|izquierd[ao]s?|derech[ao]s?|arriba|abajo|links|rechts|(?:linke|rechte|obere|untere)[rnms]?"
    r"|oben|unten|sinistr[ao]|destr[ao]|sopra|sotto|esquerd[ao]|direit[ao]|superior|inferior)\b",
    re.IGNORECASE,
)

# Parts of the patterns: what follows a word, without being taken into the match.
END = r"(?=\s*(?:[.,;:!?)\"]|$))"
PICTURE = r"(?:the |this |that |our )?(?:\w+ )?(?:picture|image|frame|photo|photograph|shot|scene|screen|canvas|map)\b"
PART = (
    r"(?:left|right|top|bottom|upper|lower|middle|cent(?:er|re)|sides?|corners?|edges?|borders?|margins?|half|halves"
    r"|thirds?|quarters?|quadrants?|ends?|parts?|portions?|sections?|areas?|regions?)(?:most)?\b"
)
THING = (  # what stands on the ground, so that "upper" and "top" do not mean its height
    r"(?:ones?|two|three|four|five|cars?|vehicles?|trucks?|lorry|lorries|bus|buses|vans?|taxis?|suvs?|sedans?|bikes?"
    r"|bicycles?|motorbikes?|motorcycles?|tricycles?|trailers?|tractors?|excavators?|boats?|ships?|planes?|aircraft"
    r"|containers?|trees?|pools?|courts?|fields?|gardens?|lanes?|rows?|crosswalks?|roundabouts?|intersections?"
    r"|junctions?|tents?|people|persons?|man|men|woman|women|child|children|pedestrians?|cyclists?|objects?|targets?)\b"
)
MOVES = (
    r"(?:turn|veer|bear|steer|swerv|curv|bend|fac|head|go|mov|driv|travell?|point|look|run|lead|merg|exit|walk|sail)"
    r"(?:e|s|es|ed|ing|ning)?"
)
QUOTED = r"[\"“”][^\"“”]*\b(?:{words})\b[^\"“”]*[\"“”]"  # of a sign, which a flip would have to paint anew
THEIR = r"(?:the|its|his|her|their|your|our|my)"

# Clockwise: a flip along either axis turns it round, one along both gives it back.
AGAINST = ("counterclockwise", "anticlockwise", "counter-clockwise", "anti-clockwise", "counter clockwise")
ROTATION = tuple(("clockwise", word) for word in (*AGAINST, "anti clockwise"))
ROTATES = r"(?<![a-z])(?:(?:counter|anti)[-\s]?)?clockwise(?![a-z])"
ROTATES_AS_PLACE = rf"(?P<word>{ROTATES})"

SIDE = r"(?P<word>left|right)"
# "right" in the sense of correct, and "left" of what remains
NOT_CORRECT = (
    r"(?!\s+(?:ways?|answers?|places?|times?|moment|choices?|order|sizes?|decisions?|track|things?|words?|person|tool"
    r"|spot|kind|type|sort|colou?rs?|directions?|amount|numbers?|conditions?|reasons?|angles?|of way|luggage"
    r"|to (?!the\b))\b)"
    r"(?![- ]?overs?\b)(?!-(?:of|angled?|behind|click)\b)(?![- ]?hand(?:ed)?[- ](?:driv|traffic|steer))"
)
# and in that of exactly or at once
NOT_SIDES = NOT_CORRECT + (
    r"(?!\s+(?:now|behind|next|besides?|in front|in the middle|above|below|over|under|underneath|beneath|here|there"
    r"|away|after|before|between|where|when|by|near|against|outside|inside|opposite|through|up|down|past|ahead|around)\b)"
)
HORIZONTAL_WORDS = Axis(
    pairs=(("left", "right"), *ROTATION),
    words=rf"(?:(?<![a-z])|(?<=top)|(?<=upper)|(?<=lower)|(?<=bottom)|(?<=centre)|(?<=center))(?:left|right)|{ROTATES}"
    # sides of a vehicle or of a kind of traffic, which a mirrored picture turns into the other kind
    r"|(?<![a-z])(?:near[- ]?side|off[- ]?side|port[- ]?side|starboard|driver'?s'? side|passenger'?s? side|wrong side"
    r"|mirrored|mirror image)(?![a-z])",
    places=(
        ROTATES_AS_PLACE,
        # leftmost, left hand, leftwards, left-sided, left turn, left-facing
        rf"(?<![a-z]){SIDE}{NOT_SIDES}"
        r"(?=[- ]?most\b|-?wards?\b|[- ]?hand(?:ed)?\b|[- ]?sided?\b|[- ]turn(?:s|ing)?\b|-[a-z])",
        # upper left, top-left, topleft, left edge
        r"(?<![a-z])(?:top|bottom|upper|lower|middle|mid|cent(?:er|re)|far|front|rear|extreme|outer)(?:most)?"
        rf"[-_\s]?{SIDE}(?![a-z]){NOT_SIDES}",
        rf"(?<![a-z]){SIDE}(?=[-_\s](?:{PART}|lanes?\b|rows?\b|columns?\b))(?! side by side)",
        # on the left, its left, the two left cars, from left, the bus's left
        rf"\b{THEIR}\s+(?:(?:very|far|extreme|immediate|two|three|four|second|third|other|first|last)\s+)*{SIDE}\b{NOT_SIDES}",
        rf"\b(?:on|to|at|from)\s+{THEIR}\s+(?:(?:very|far|extreme|immediate)\s+)*{SIDE}\b" + NOT_CORRECT,
        rf"\b(?:from|to|on|at|towards?)\s+(?:far\s+)?{SIDE}\b{NOT_SIDES}(?!\s+(?:an?|its?)\b)",
        rf"(?<!what)(?<!that)(?<!there)(?<!it)(?<!who)(?<!here)['’]s\s+{SIDE}(?:{END}|(?=\s+{PART}))",
        # left of the bus, left or right, turns left, a sharp left turn, farthest left
        rf"\b{SIDE}(?=\s+of\b)(?!\s+of\s+way\b)",
        rf"\b{SIDE}(?=(?:\s*/\s*|[-\s](?:and|or|to|from)[-\s](?:the\s)?)(?:left|right)\b)",
        rf"\b(?:left|right)(?:\s*/\s*|[-\s](?:and|or|to|from)[-\s](?:the\s)?){SIDE}\b{NOT_SIDES}",
        rf"\b{MOVES}\s+(?:sharp(?:ly)?\s+|slightly\s+|to\s+)?{SIDE}(?:{END}|(?=\s+(?:and|or|than|while)\b))",
        rf"\b(?:turn|veer|bear|steer)(?:s|ed|ing)?\s+{SIDE}(?=\s+(?:at|onto|into|from|towards?|off)\b)",
        rf"\b(?:farthest|furthest|farther|further|closest|nearest|most|extreme)\s+{SIDE}(?:{END}|(?=\s+(?:in|of|on|and|or)\b))",
        rf"^\W*{SIDE}\W*$",
    ),
    others=(
        r"\b(?:has|have|had|having)\s+(?:(?:just|already|recently|not|never|since)\s+)?(?P<word>left)\b(?!-)",
        r"\b(?<!the )(?<!its )(?<!far )(?<!to )(?<!on )(?P<word>left)(?=\s+(?:the|a|an|its|his|her|their)\b)",
    ),
    unclear=(
        # what remains
        r"\b(?:what(?:ever)?|all|nothing|anything|everything|something|little|much|more|none|few|remains)(?:['’]s)?\s+"
        r"(?:(?:that|there|is|are|was|were|has|have|been|remains?)\s+)*(?P<word>left)\s+of\b",
    ),
    vetoes=(
        QUOTED.format(words="left|right"),
        # suitable, proper, the way up; a wing of politics
        r"\b(?:the|a)\s+right\s+(?!(?:next|of|side|behind)\b)(?:\w+\s+){1,3}?(?:to|for)\s",
        r"\bright\s+(?:and|or)\s+(?:proper|wrong|fair)\b|\bright side (?:up|out)\b|\b(?:left|right)[- ]wing",
        # those that remain
        r"\b(?:two|three|four|five|six|last|only|many|few)\s+left(?=\s+(?:in|on|at|to|over|here|there)\b|\W*$)",
    ),
)
# What stands or flies above ground, so that a thing above or below it is so in the world and not in the picture.
HIGH = (
    r"\b(?:umbrellas?|parasols?|awnings?|canop(?:y|ies)|wires?|cables?|bridges?|overpass(?:es)?|flyovers?|viaducts?|tunnels?"
    r"|planes?|aeroplanes?|airplanes?|aircraft|helicopters?|drones?|birds?|kites?|clouds?|fly(?:ing)?|flies|roofs?|balcon"
    r"(?:y|ies)|signs?|trees?|cranes?|lamps?|poles?|stairs|steps|hills?|ground)\b"
)
STACKED = (
    r"\b(?:stack(?:s|ed)?|piles?|piled|racks?|decks?|double-?deck\w*|stor(?:e?ys?|ies)|shel(?:f|ves)|floors?|levels?)\b"
)
NUMBER = r"(?:\d+|one|two|three|four|five|six|seven|eight|nine|ten)"
HEIGHT = r"(?:speed|view|floor|level|deck|stor(?:e?y|ies)|class|price|number|secret|step|shelf|bunk)"
VERTICAL_WORDS = Axis(
    pairs=(("top", "bottom"), ("upper", "lower"), ("highest", "lowest"), ("above", "below"), ("up", "down"), *ROTATION),
    words=r"(?<![a-z])(?:(?:top|bottom)(?:most|s)?|(?:upper|lower)(?:most|s|ed|ing)?|highest|higher|lowest|above|below"
    r"|(?:up|down)(?:wards?|most)?|(?:top|bottom|upper|lower)(?:left|right|cent(?:er|re)|middle)|over|under|underneath"
    rf"|beneath|foreground|background|horizon|sky|skyline|upside|inverted|overhead)(?![a-z])|{ROTATES}",
    places=(
        ROTATES_AS_PLACE,
        # topmost, upper-most, top-left, upper edge, left top
        r"(?<![a-z])(?P<word>top|bottom|upper|lower)(?=[- ]?most\b)",
        rf"(?<![a-z])(?P<word>top|bottom|upper|lower)(?=[-_\s]?(?:and\s)?{PART})",
        r"\b(?:left|right|middle|cent(?:er|re))[-_\s](?P<word>top|bottom|upper|lower)\b"
        rf"(?:{END}|(?= (?:{PART}|of {PICTURE})))",
        # at the top, the bottom of the picture, the upper of the two, the lower red car
        r"\b(?:at|to|from|near|towards?|nearest|closest|in|on|along|than)\s+(?:the|its)\s+(?:very\s+)?(?P<word>top|bottom)\b"
        rf"(?:{END}|(?=\s+(?:and|or|is|are|was|were|that|which|who|with|in|at|to|than|as)\b))",
        rf"\b(?P<word>top|bottom)(?= of {PICTURE})",
        r"\bthe\s+(?P<word>upper|lower)(?=\s+of\s+(?:the|these|those|both|all|two|three)\b)",
        r"\b(?:the|its|their|each|every|both|two|three)\s+(?:\w+\s+)?(?P<word>top|bottom|upper|lower)"
        rf"(?!\s+(?:\w+\s+)?{HEIGHT})(?=\s+(?:(?!(?:of|on|in|and|with)\b)[a-z]+\s+){{0,2}}?{THING})",
        # highest in the picture, above the pool, top to bottom, moving up in the picture
        rf"\b(?P<word>highest|lowest)(?=\s+in {PICTURE}|,\s+nearest to the (?:top|bottom)\b)",
        r"\b(?P<word>above|below)(?=\s+(?:the|it|them|both|another|this|that|these|those)\b)"
        r"(?!\s+(?:\w+\s+){1,2}(?:ground|sea|water|roads?|streets?|surface|average|horizon|clouds?|river|canal|rails?"
        r"|tracks?|roofs?|entrance|doors?|windows?|limit|others?|rest|surroundings?|trees)\b)",
        r"\b(?P<word>top|upper|above)(?=(?:\s*/\s*|[-\s](?:and|or|to)[-\s](?:the\s)?)(?:bottom|lower|below)\b)",
        r"\b(?P<word>bottom|lower|below)(?=(?:\s*/\s*|[-\s](?:and|or|to)[-\s](?:the\s)?)(?:top|upper|above)\b)",
        rf"\b(?:top|upper)(?:\s*/\s*|[-\s](?:and|or|to)[-\s](?:the\s)?)(?P<word>bottom|lower)\b(?!\s+(?:\w+\s+)?{HEIGHT})",
        rf"\b(?:bottom|lower)(?:\s*/\s*|[-\s](?:and|or|to)[-\s](?:the\s)?)(?P<word>top|upper)\b(?!\s+(?:\w+\s+)?{HEIGHT})",
        r"\b(?:mov|head|driv|go|travell?|point)(?:e|s|es|ing)?\s+(?P<word>up|down)"
        rf"(?=wards?{END}|(?:wards?)?\s+in {PICTURE})",
        r"^\W*(?P<word>top|bottom|upper|lower|above|below|up|down)\W*$",
    ),
    others=(
        # One thing on another, seen from the drone: no flip changes that.
        r"\b(?:walk|driv|cross|step|run|cycl|rid)(?:e|es|s|ing)?\s+(?P<word>over)\b",
        r"\b(?P<word>over)(?=\s+(?:a|an|the)\s+(?:road|street|table|river|bridge|railway|canal|water)\b)",
        r"\b(?P<word>under)(?=\s+(?:an?|the|its|their)\s+(?:\w+\s+)?(?:roofs?|trees?|bridges?|canop(?:y|ies)|awnings?|cloths?)\b)",
    ),
    vetoes=(
        QUOTED.format(words="top|bottom|upper|lower|up|down|above|below"),
        rf"(?=.*\b(?:above|below)\b)(?=.*{HIGH})",
        rf"(?=.*\b(?:top|bottom|upper|lower|above|below)\b)(?=.*{STACKED})",
        # a rank, the roof or the ground of a thing, clothes, courts of law
        rf"\btop\s+(?:{NUMBER}\b|people\b|(?:\w+\s+)?\w+est\b|\w+ed\b|\w+ing\b)|\btop\b(?:\s+\w+){{1,3}}\s+by\b",
        rf"\b(?:top|bottom)\s+of\s+(?!{PICTURE})",
        r"\b(?:top|bottoms?)\s+and\s+(?:\w+\s+)?(?:skirt|trousers|jeans|shorts|pants)\b|\bwear(?:s|ing)?\b.*\btop\b",
        r"\b(?:lower|upper)\s+(?:court|house|class|school|chamber)\s+\w",
    ),
)
