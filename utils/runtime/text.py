"""Text from outside: what UTF-8 cannot write, what shows nothing, and names in other spellings.

`utils.download` runs before anything is installed, so that this imports the standard library alone.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

_SURROGATE = re.compile("[\ud800-\udfff]")
_SHOWN = ("L", "N", "P", "S")  # letters, numbers, punctuation, symbols; marks show on one of them alone
# Letters and a symbol without ink: the fillers of Hangul and the empty pattern of braille.
_WITHOUT_INK = frozenset("\u115f\u1160\u3164\uffa0\u2800")
PICTURE_ENDINGS = (".jpg", ".jpeg")  # of a data set's pictures, in either case
# Of names that are no UTF-8, in packers' and systems' encodings; several read most bytes, so that a name which is
# looked for decides.
CODE_PAGES = ("cp437", "cp850", "cp1252", "cp1250", "cp1251", "cp866", "cp1253", "cp1254", "cp932", "gb18030", "cp949",
              "big5", "mac_roman")  # fmt: skip


def lone_surrogate(text: str) -> str:
    """What in a text cannot be written as UTF-8, in words; "" where all can."""
    found = _SURROGATE.search(text)
    if not found:
        return ""
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # as Python takes bytes of names and arguments in
        return f"U+{code:04X}, which is half of a character, or the byte 0x{code - 0xDC00:02X} that is no UTF-8"
    return f"U+{code:04X}, which is half of a character and cannot be written as UTF-8"


def shows_nothing(text: str) -> bool:
    """Whether a text has no visible character: it is empty, or blanks, control and format characters alone."""
    return not any(letter not in _WITHOUT_INK and unicodedata.category(letter).startswith(_SHOWN) for letter in text)


def code_points(text: str, most: int = 4) -> str:
    """The characters of a text by number, for a message about what cannot be seen."""
    named = " ".join(f"U+{ord(letter):04X}" for letter in text[:most])
    return f"{named} …" if len(text) > most else named


def shown_name(path: Path | str) -> str:
    r"""A file's name as text that UTF-8 can write: bytes of it that are none stand as \xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def same_name(one: str, other: str) -> bool:
    """Whether two names are the same in perhaps another Unicode form."""
    return unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other)


class NameIndex(Generic[T]):
    """Things found by name although the name is written in another way.

    In the order in which they are tried: the same characters; the same in another Unicode form, as Macs decompose
    names; the bytes of a name that is no UTF-8, read in one of `CODE_PAGES`.
    """

    def __init__(self) -> None:
        self._exact: dict[str, list[T]] = defaultdict(list)
        self._equal: dict[str, list[T]] = defaultdict(list)
        self._read: dict[str, list[T]] = defaultdict(list)

    def add(self, name: str, thing: T, raw: bytes | None = None) -> None:
        """Remember a thing.

        Args:
            name: as it was read.
            thing: what has that name.
            raw: the bytes of a name whose encoding is not known; `name` then counts only as one reading of it.
        """
        self._exact[name].append(thing)
        if raw is None or raw.isascii():
            self._equal[unicodedata.normalize("NFC", name)].append(thing)
            return
        try:
            self._equal[unicodedata.normalize("NFC", raw.decode("utf-8"))].append(thing)
        except UnicodeDecodeError:
            for reading in _readings(raw):
                self._read[reading].append(thing)

    def find(self, name: str) -> list[T]:
        """The things of that name; several where it cannot be told which one is meant."""
        same = unicodedata.normalize("NFC", name)
        tried = (self._exact.get(name), self._equal.get(same), self._read.get(same))
        return next((found for found in tried if found), [])


def _readings(raw: bytes) -> set[str]:
    """What bytes may mean, in composed form."""
    readings = set()
    for page in CODE_PAGES:
        try:
            readings.add(unicodedata.normalize("NFC", raw.decode(page)))
        except UnicodeDecodeError:
            continue  # another code page
    return readings
