"""One reader of JSON for all: labels, configurations, indexes and the records of runs.

`utils.download` runs before anything is installed, so that this imports the standard library alone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.runtime.errors import UserError, read_errors_as_user_error
from utils.runtime.text import lone_surrogate

CURE = "mend it there, or write the file again"


def read_json(path: Path, cure: str = CURE, strict: bool = True) -> Any:
    """What a file of JSON holds; see `parse_json`.

    Raises:
        UserError: it is missing, may not be read, or is no JSON.
    """
    with read_errors_as_user_error(path):
        data = path.read_bytes()
    return parse_json(data, str(path), cure, strict)


def parse_json(data: bytes | str, where: str, cure: str = CURE, strict: bool = True) -> Any:
    """The value that `data` holds in JSON: UTF-8, UTF-16 or UTF-32, with a byte order mark or without.

    Of a name that stands twice in an object the last one counts. A whole number of more digits than Python reads
    becomes an infinite float, as one like 1e400 does.

    Args:
        data: of the file, or its text.
        where: what errors begin with, such as the file.
        cure: what errors end with.
        strict: refuse what is no number and no text anywhere else: NaN, infinite floats and lone surrogates. A caller
            who does not has to look at what it uses, and can then say whose fault it is.

    Raises:
        UserError: it is no JSON, is nested too deeply, or has what `strict` refuses.
    """
    text = data if isinstance(data, str) else _decoded(data, where, cure)
    try:
        value = _value(text)
    except json.JSONDecodeError as error:
        if not text.strip("\0 \t\r\n\ufeff"):
            raise UserError(f"{where}: not JSON, the file is empty; {cure}") from error
        cut_off = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
        said = f"{error}; it ends in the middle" if cut_off else str(error)
        raise UserError(f"{where}: not JSON ({said}); {cure}") from error
    except RecursionError as error:
        raise UserError(f"{where}: its brackets are nested too deeply to be read; {cure}") from error
    if strict:
        for place, fault in _faults(value):
            raise UserError(f"{where}: {place or 'it'} {fault}; {cure}")
    return value


def _decoded(data: bytes, where: str, cure: str) -> str:
    encoding = json.detect_encoding(data)
    try:
        return data.decode(encoding)  # strictly: json.loads lets halves of characters pass
    except UnicodeDecodeError as error:
        name = encoding.upper().removesuffix("-SIG")
        byte, line = data[error.start], data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{where}: not JSON in {name} (byte 0x{byte:02X} at {error.start:,}, in line {line:,}: {error.reason}); "
            "save it as UTF-8"
        ) from error


def _value(text: str) -> Any:
    text = text.lstrip("\ufeff")
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # a whole number beyond Python's limit of digits; asking for each one would slow all others
        return json.loads(text, parse_int=_whole)


def _whole(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:
        return float(digits)


def _faults(value: Any) -> Iterator[tuple[str, str]]:
    """Where a value holds something that is no number or no text elsewhere, and what; without recursion."""
    left: list[tuple[str, Any]] = [("", value)]
    while left:
        place, one = left.pop()
        if isinstance(one, dict):
            left += [(f"{place}.{key}" if re.fullmatch(r"\w+", key) else f"{place}[{key!r}]", each)
                     for key, each in one.items()]  # fmt: skip
            left += [(f"a name in {place or 'it'}", key) for key in one]
        elif isinstance(one, list):
            left += [(f"{place}[{i}]", each) for i, each in enumerate(one)]
        elif isinstance(one, float) and not math.isfinite(one):
            yield place, f"is {one}, no number that can be used"
        elif isinstance(one, str) and (found := lone_surrogate(one)):
            yield place, f"holds {found}"
