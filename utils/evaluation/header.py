"""The header of predictions.jsonl: which fields scoring reads from it, and what each may hold.

All are optional, so that a file written by hand needs none of them; others are taken over as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from utils.runtime.errors import UserError

FORMAT = "PixDLM predictions 1"
UNITS = ("target", "question")  # each target by itself, or all targets of a question as one
# What scoring writes into metrics.json, beside by_GROUP.
COMPUTED = ("overall", "official", "grounded", "calibration", "answers", "controls")


class Kind(NamedTuple):
    """What a field may hold: in words, and the test of it."""

    expected: str
    fits: Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_whole(value: Any) -> bool:
    return type(value) is int  # a bool is an int to isinstance


TEXT = Kind("a text", _is_text)
TEXTS = Kind("a list of texts", lambda value: isinstance(value, list) and all(map(_is_text, value)))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
COUNT = Kind("a whole number from 0 on", lambda value: _is_whole(value) and value >= 0)
POSITIVE = Kind("a whole number from 1 on", lambda value: _is_whole(value) and value >= 1)
NUMBER = Kind("a number", lambda value: type(value) in (int, float))
UNIT = Kind(" or ".join(UNITS), lambda value: _is_text(value) and value in UNITS)


def or_null(kind: Kind) -> Kind:
    """The kind, or null."""
    return Kind(f"{kind.expected}, or null", lambda value: value is None or kind.fits(value))


# By the names that lead to a field; an object comes before what stands in it.
FIELDS: dict[str, Kind] = {
    "data": OBJECT,
    **dict.fromkeys(("data.dataset", "data.split", "data.sha256"), TEXT),
    **dict.fromkeys(("data.records", "data.pictures"), COUNT),
    **dict.fromkeys(("data.skipped", "data.unasked"), TEXTS),
    "protocol": OBJECT,
    **{f"protocol.{name}": TEXT for name in ("kind", "reasoning", "answer_format", "matching", "polygons",
                                             "orientation")},
    "protocol.unit": UNIT,
    "protocol.load_in": or_null(TEXT),
    "protocol.limit": or_null(POSITIVE),
    **{f"protocol.{name}": FLAG for name in ("skip_bad_records", "uses_ground_truth_text", "neutral_fusion")},
    "protocol.decoding": or_null(OBJECT),
    **dict.fromkeys(("protocol.decoding.temperature", "protocol.decoding.top_p"), NUMBER),
    **dict.fromkeys(("protocol.decoding.beams", "protocol.decoding.max_new_tokens"), POSITIVE),
}  # fmt: skip


def checked_header(where: str, value: dict[str, Any]) -> dict[str, Any]:
    """The header, if it is of this format and its fields hold what they should.

    Args:
        where: file and line, which errors begin with.
        value: the first line's object.

    Raises:
        UserError: it is of another format, a field holds something else, or one has the name of a result, which would
            stand in that result's place in metrics.json.
    """
    if value["format"] != FORMAT:
        raise UserError(f"{where}: format is {value['format']!r}, expected {FORMAT!r}")
    for name in value:
        if name in COMPUTED or name.startswith("by_"):
            raise UserError(f"{where}: the header has a field {name!r}, which scoring computes; leave it out")
    check_fields(where, value, FIELDS)
    return value


def check_fields(where: str, value: dict[str, Any], fields: Mapping[str, Kind], cure: str = "") -> None:
    """Check the fields that an object has; one that is left out is right.

    Args:
        where: what errors begin with.
        value: the object.
        fields: by the names that lead to them, as FIELDS.
        cure: what errors end with.

    Raises:
        UserError: a field holds something else than its kind.
    """
    for name, kind in fields.items():
        *path, last = name.split(".")
        holder: Any = value
        for part in path:
            holder = (holder or {}).get(part)  # decoding may be null
        if holder and last in holder:
            check_field(where, name, holder[last], kind, cure)


def check_field(where: str, name: str, value: Any, kind: Kind, cure: str = "") -> None:
    """Raises UserError where a value is not of a kind: `where`, the field, and the `cure`."""
    if not kind.fits(value):
        found = json.dumps(value, ensure_ascii=False)[:60]
        raise UserError(f"{where}: {name} is {found}, expected {kind.expected}{cure and f'; {cure}'}")
