"""utils.runtime.text: what UTF-8 cannot write, what shows nothing, names in other spellings."""

from __future__ import annotations

import os
import unicodedata

import pytest

from utils.runtime.text import NameIndex, lone_surrogate, shown_name, shows_nothing

NAME = "vol_é_7"


def test_what_cannot_be_written_is_named() -> None:
    assert lone_surrogate("Straße 😀") == ""
    assert lone_surrogate("a\ud83d").startswith("U+D83D, which is half of a character")
    assert "the byte 0xE9 that is no UTF-8" in lone_surrogate(os.fsdecode(b"caf\xe9"))


@pytest.mark.parametrize(
    "text", ["", " \n", "\u200b\u200b", "\ufeff", "\x00\x07", "\u00ad", "\u3164", "\u2800", "\u2060\u200d", "\u202e",
             "\u034f", "\ufe0f", "\U000e0041", "\u0301", "\uffff"]
)  # fmt: skip
def test_text_that_shows_nothing(text: str) -> None:
    assert shows_nothing(text)


@pytest.mark.parametrize("text", ["a", "\u200ba", "7", "?", "汽", "ع", "😀", "é", "e\u0301", "→"])
def test_text_that_shows_something(text: str) -> None:
    assert not shows_nothing(text)


def test_a_name_is_shown_by_the_bytes_that_are_no_utf8() -> None:
    assert shown_name(os.fsdecode(b"caf\xe9.jpg")) == r"caf\xe9.jpg" and shown_name("Straße.jpg") == "Straße.jpg"


@pytest.mark.parametrize("packed", ["cp437", "cp850", "cp1252", "mac_roman", "utf-8"])
def test_names_are_found_in_other_forms_and_code_pages(packed: str) -> None:
    forms = {form: unicodedata.normalize(form, NAME) for form in ("NFC", "NFD")}
    for wanted in forms.values():
        for written in forms.values():
            index: NameIndex[int] = NameIndex()
            index.add(written, 1)
            index.add("other", 2)
            assert index.find(wanted) == [1]
        raw = forms["NFC"].encode(packed)
        index = NameIndex()
        index.add(raw.decode("cp437"), 3, raw)
        assert index.find(wanted) == [3] and index.find("vol_x_7") == []


def test_the_same_characters_come_before_another_form() -> None:
    index: NameIndex[str] = NameIndex()
    for form in ("NFC", "NFD"):
        index.add(unicodedata.normalize(form, NAME), form)
    assert [index.find(unicodedata.normalize(form, NAME)) for form in ("NFC", "NFD")] == [["NFC"], ["NFD"]]
    index.add(NAME, "again")
    assert index.find(NAME) == ["NFC", "again"]
