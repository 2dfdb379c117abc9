"""utils.runtime.json_files: one reader of JSON, whatever a tool wrote it with."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from utils.runtime.errors import UserError
from utils.runtime.json_files import parse_json, read_json

VALUE = [{"id": "Straße 汽车 😀", "n": [1, 2.5, None, True]}]
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_file_is_read_in_any_encoding_of_unicode(tmp_path: Path, encoding: str, ascii_only: bool) -> None:
    (tmp_path / "x.json").write_bytes(json.dumps(VALUE, ensure_ascii=ascii_only, indent=1).encode(encoding))
    assert read_json(tmp_path / "x.json") == VALUE


BROKEN = [
    (b"", "not JSON, the file is empty; mend it there"),
    (b"\0\0\0\0", "not JSON, the file is empty"),
    (b'{"a": 1', "not JSON .*it ends in the middle"),
    (b'{"a": "b', "not JSON .*it ends in the middle"),
    (b'{"a": 1,}', r"not JSON \(Expecting property name.* line 1 column 9"),
    (b'["caf\xe9"]', r"not JSON in UTF-8 \(byte 0xE9 at 5, in line 1: .*; save it as UTF-8"),
    (b'["\xed\xa0\xbd"]', r"not JSON in UTF-8 \(byte 0xED"),  # half a character, written as if it were one
    ("[1]".encode("utf-16")[:-1], "not JSON in UTF-16 .*truncated"),
    (b"[" * 100_000, "brackets are nested too deeply"),
    (b'{"a": ' * 100_000, "brackets are nested too deeply"),
    (b'{"a": [1, {"b c": "x\\ud83d"}]}', r"\.a\[1\]\['b c'\] holds U\+D83D, which is half of a character"),
    (b'{"a": {"\\udce9": 1}}', r"a name in \.a holds U\+DCE9"),
    (b'{"a": [0, NaN]}', r"\.a\[1\] is nan, no number that can be used"),
    (b'{"a": -1e400}', r"\.a is -inf"),
    (b"9" * 5000, "it is inf"),
]


@pytest.mark.parametrize(("data", "message"), BROKEN, ids=[message[:30] for _, message in BROKEN])
def test_what_is_none_is_told_with_the_file_and_not_blamed_on_a_download(
    tmp_path: Path, data: bytes, message: str
) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(data)
    with pytest.raises(UserError, match=message) as told:
        read_json(file)
    assert str(told.value).startswith(f"{file}: ") and "fetch" not in str(told.value)


def test_a_caller_may_look_at_numbers_and_texts_itself() -> None:
    data = f'[1e400, {"9" * 5000}, -{"9" * 5000}, {"9" * 400}, "\\ud83d", NaN]'
    *numbers, text, none = parse_json(data, "x", strict=False)
    assert numbers == [math.inf, math.inf, -math.inf, int("9" * 400)] and text == "\ud83d" and math.isnan(none)


def test_of_a_name_that_stands_twice_the_last_counts() -> None:
    assert parse_json(b'{"a": 1, "a": 2}', "x") == {"a": 2}


def test_a_file_that_cannot_be_had_is_told_as_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="none.json: no such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(UserError, match="cannot be read .*directory"):
        read_json(tmp_path)

    def denied(_path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(UserError, match="x.json: permission denied; this user may not read it"):
        read_json(tmp_path / "x.json")
