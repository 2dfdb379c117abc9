"""utils.runtime.pickle_files: pickles of plain values."""

from __future__ import annotations

import collections
import os
import pickle
from pathlib import Path

import pytest

from utils.runtime.errors import UserError
from utils.runtime.pickle_files import read_plain_pickle

PLAIN = [{"ref_id": 7, "far": 1 << 70, "half": 0.5, "ok": True, "none": None, "sentences": [("a", "b")], "text": "é"}]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_of_every_protocol_are_read(tmp_path: Path, protocol: int) -> None:
    file = tmp_path / "refs.p"
    file.write_bytes(pickle.dumps(PLAIN, protocol))
    assert read_plain_pickle(file) == PLAIN


@pytest.mark.parametrize(("raw", "read"), [(b"caf\xc3\xa9", "café"), (b"caf\xe9", "café"), (b"cafe", "cafe")])
def test_texts_of_python_2_are_read_as_utf8_or_latin1(tmp_path: Path, raw: bytes, read: str) -> None:
    file = tmp_path / "refs.p"
    file.write_bytes(b"\x80\x02]q\x00U" + bytes([len(raw)]) + raw + b"a.")  # a list of one SHORT_BINSTRING
    assert read_plain_pickle(file) == [read]


class Harm:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("harm",)


@pytest.mark.parametrize(
    ("value", "named"), [(Harm(), r"posix\.mkdir"), ([collections.Counter("a")], r"collections\.Counter")]
)
def test_anything_else_is_refused_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: object, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "refs.p"
    file.write_bytes(pickle.dumps(value))
    with pytest.raises(UserError, match=rf"refs\.p: not read, because it asks for {named}; only lists, dicts"):
        read_plain_pickle(file)
    assert not (tmp_path / "harm").exists()


def test_a_file_that_is_missing_damaged_or_no_pickle_is_named(tmp_path: Path) -> None:
    file = tmp_path / "refs.p"
    with pytest.raises(UserError, match=r"refs\.p: no such file"):
        read_plain_pickle(file)
    for data in (b"", b"<html>", pickle.dumps(PLAIN)[:-9]):
        file.write_bytes(data)
        with pytest.raises(UserError, match=r"refs\.p: no pickle, or a damaged one \(\w+: .*\); mend it"):
            read_plain_pickle(file)
    with pytest.raises(UserError, match="cannot be read"):
        read_plain_pickle(tmp_path)
