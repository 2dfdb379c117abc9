"""utils.download.prepare_drseg on small archives in the manner of the published one."""

from __future__ import annotations

import json
import stat
import unicodedata
import zipfile
from pathlib import Path

import pytest

from tests.permissions import refused
from tests.utils.download.archive import COUNTS, IDS, check_layout, labels, pack, picture, published_members
from utils.download import prepare_drseg
from utils.runtime.errors import UserError


def prepare_other(path: Path, members: dict[str, bytes]) -> dict[str, int]:
    """Prepare an archive that is not the pinned one."""
    return prepare_drseg.prepare(pack(path / "other.zip", members), path / "out", checksum=False)


def test_the_archive_is_laid_out_as_the_code_expects_it(archive: Path, tmp_path: Path) -> None:
    assert prepare_drseg.prepare(archive, tmp_path / "data/DRSeg") == COUNTS
    check_layout(tmp_path / "data/DRSeg")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["DRSeg"]


def test_folders_may_sit_anywhere(archive: Path, tmp_path: Path) -> None:
    members = {"__MACOSX/train/labels.json": b"?", ".hidden.json": b"?", "readme.json": b"?", "spare.jpg": b"?"}
    for split, ids in IDS.items():
        members[f"{split}/labels.json"] = labels(split)
        members.update({f"{split}/deep/er/{name}.JPG": picture(name) for name in ids})
    assert prepare_other(tmp_path, members) == COUNTS
    check_layout(tmp_path / "out")


def test_a_name_in_several_splits_is_resolved_by_its_folder(archive: Path, tmp_path: Path) -> None:
    members = published_members()
    members["DRSeg/images/DRval/test_0.jpg"] = b"of val"
    members["DRSeg/extra/labels_test.json"] = b"not the published name"
    prepare_other(tmp_path, members)
    check_layout(tmp_path / "out")
    members["DRSeg/more/DRtest/test_0.jpg"] = b"again"
    with pytest.raises(UserError, match="record 'test_0' of test has several pictures: .*DRval/test_0.jpg"):
        prepare_drseg.prepare(pack(tmp_path / "more.zip", members), tmp_path / "more", checksum=False)


@pytest.mark.parametrize("damage", ["size", "content"])
def test_another_archive_is_refused_unless_accepted(archive: Path, tmp_path: Path, damage: str) -> None:
    content = bytearray(archive.read_bytes())
    content[40] ^= 1  # in the first member's name
    archive.write_bytes(bytes(content) + b"x" * (damage == "size"))
    with pytest.raises(UserError, match=f"expected {'.* bytes' if damage == 'size' else 'sha256'}.*--no-checksum"):
        prepare_drseg.prepare(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_numbers_of_records(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(prepare_drseg, "DRSEG_RECORDS", COUNTS | {"val": 2000})
    with pytest.raises(UserError, match="3 / 2 / 4 records in train / val / test, published are 3 / 2,000 / 4"):
        prepare_drseg.prepare(archive, tmp_path / "out")
    prepare_drseg.prepare(archive, tmp_path / "out", checksum=False)
    assert "published are 3 / 2,000 / 4" in caplog.text and "not compared" in caplog.text


@pytest.mark.parametrize("name", ["../evil.txt", "DRSeg/../../evil.txt", "/evil.txt", "..\\evil.txt", "C:\\evil.txt"])
def test_paths_that_leave_the_target_are_refused(archive: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="leads out of the target folder"):
        prepare_other(tmp_path, published_members() | {name: b"evil"})
    assert not (tmp_path / "out").exists() and not list(tmp_path.rglob("evil.txt"))


def test_links_are_refused(archive: Path, tmp_path: Path) -> None:
    path = pack(tmp_path / "link.zip", published_members())
    with zipfile.ZipFile(path, "a") as opened:
        link = zipfile.ZipInfo("DRSeg/images/DRtest/link.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        opened.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="symbolic link"):
        prepare_drseg.prepare(path, tmp_path / "out", checksum=False)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("DRSeg/annotations/DRSeg_val.json", b"{", "DRSeg_val.json: not JSON"),
        ("DRSeg/annotations/DRSeg_val.json", b'{"id": 1}', "DRSeg_val.json: not a list of records"),
        ("DRSeg/annotations/DRSeg_val.json", b'[{"id": "%s"}]' % (b"n" * 252), "n' cannot be the name of a picture"),
        ("DRSeg/annotations/DRSeg_val.json", b'[{"id": "../a"}]', "'../a' cannot be the name of a picture"),
        ("DRSeg/annotations/DRSeg_val.json", b'[{"id": "gone"}]', "1 records have no picture .* val gone"),
        ("DRSeg/annotations/DRSeg_val.json", None, r"expected one label file \(.json\) of val, got none"),
        ("DRSeg/images/DRtest/test_3.jpg", None, "1 records have no picture .* test test_3"),
    ],
)
def test_what_is_wrong_in_the_archive_is_named(
    archive: Path, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    members = published_members()
    if content is None:
        del members[name]
    else:
        members[name] = content
    with pytest.raises(UserError, match=message):
        prepare_other(tmp_path, members)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_truncated_or_damaged_archive_leaves_nothing(archive: Path, tmp_path: Path) -> None:
    content = archive.read_bytes()
    damaged = bytearray(content)
    where = content.index(b"test_2.jpg") + len(b"test_2.jpg") + 10
    damaged[where] ^= 0xFF
    for name, broken in (("short.zip", content[: len(content) // 2]), ("bad.zip", bytes(damaged))):
        (tmp_path / name).write_bytes(broken)
        with pytest.raises(UserError, match=f"{name}: cannot be read"):
            prepare_drseg.prepare(tmp_path / name, tmp_path / "out", checksum=False)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_folder_that_is_there_is_replaced_only_on_request(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="there already; --overwrite"):
        prepare_drseg.prepare(archive, out)
    (tmp_path / "bad.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match="cannot be read"):
        prepare_drseg.prepare(tmp_path / "bad.zip", out, overwrite=True, checksum=False)
    assert (out / "mine.txt").read_text() == "mine"
    prepare_drseg.prepare(archive, out, overwrite=True)
    check_layout(out)
    assert not (out / "mine.txt").exists() and not [path for path in tmp_path.iterdir() if path.name[0] == "."]


def test_a_folder_that_cannot_be_made_is_named(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="below: cannot be made"):
        prepare_drseg.prepare(archive, archive / "below")


def test_a_missing_archive_and_a_full_disk(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no such file; `python -m utils.download --what drseg`"):
        prepare_drseg.prepare(tmp_path / "none.zip", tmp_path / "out")
    monkeypatch.setattr(prepare_drseg.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100})())
    with pytest.raises(UserError, match="are to be unpacked, 0.00 GB are free"):
        prepare_drseg.prepare(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_labels_are_read_as_the_loader_reads_them(archive: Path, tmp_path: Path, encoding: str) -> None:
    members = published_members()
    for name in [name for name in members if name.endswith(".json")]:
        members[name] = members[name].decode().encode(encoding)
    assert prepare_other(tmp_path, members) == COUNTS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"id": "caf\xe9"}]', "not JSON in UTF-8 .*save it as UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'[{"id": "\\udce9"}]', "cannot be the name of a picture"),
        (b'[{"id": true}]', "record 0 has the id True, expected a text or a number"),
        (b'[{"id": 7.0}]', "record 0 has the id 7.0"),
    ],
)
def test_labels_that_the_loader_would_refuse_are_refused(
    archive: Path, tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        prepare_other(tmp_path, published_members() | {"DRSeg/annotations/DRSeg_val.json": content})


def packed_in(path: Path, encoding: str, names: dict[str, str]) -> Path:
    """An archive whose members are named in a code page, without the mark of UTF-8; `names` replaces ids."""
    stand_ins: dict[str, bytes] = {}  # of the same length, for zipfile would mark the names themselves as UTF-8
    members: dict[str, bytes] = {}
    for name, content in published_members().items():
        for old, new in names.items():
            name, content = name.replace(old, new), content.replace(old.encode(), new.encode())
        raw = name.encode(encoding)
        stand_ins[f"{len(members):04d}".ljust(len(raw), "#")] = raw
        members[list(stand_ins)[-1]] = content
    data = pack(path, members).read_bytes()
    for stand_in, raw in stand_ins.items():
        data = data.replace(stand_in.encode(), raw)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "cp437", "cp850", "cp1252", "mac_roman"])
def test_names_of_pictures_may_be_in_a_code_page(archive: Path, tmp_path: Path, encoding: str) -> None:
    path = packed_in(tmp_path / "other.zip", encoding, {"test_1": "tést_ü"})
    assert prepare_drseg.prepare(path, tmp_path / "out", checksum=False) == COUNTS
    assert (tmp_path / "out/CODrone/DRtest/tést_ü.jpg").read_bytes() == picture("tést_ü")


def test_a_name_in_two_unicode_forms_is_one(archive: Path, tmp_path: Path) -> None:
    members = published_members()
    members["DRSeg/annotations/DRSeg_val.json"] = json.dumps([{"id": "vol_é"}, {"id": "val_1"}]).encode()
    members[unicodedata.normalize("NFD", "DRSeg/images/DRval/vol_é.jpg")] = members.pop("DRSeg/images/DRval/val_0.jpg")
    assert prepare_other(tmp_path, members) == COUNTS
    assert (tmp_path / "out/CODrone/DRval/vol_é.jpg").read_bytes() == picture("val_0")


def test_a_picture_of_two_names_is_told(archive: Path, tmp_path: Path) -> None:
    ids = json.dumps([{"id": "test_é"}, {"id": "test_Θ"}]).encode()  # 0xE9 in cp1252 and in cp437
    members = {name: content for name, content in published_members().items() if "DRtest" not in name}
    members |= {"DRSeg/annotations/DRSeg_test.json": ids, "DRSeg/images/DRtest/test_#.jpg": b"x"}
    pack(tmp_path / "again.zip", members)
    changed = (tmp_path / "again.zip").read_bytes().replace(b"test_#.jpg", b"test_\xe9.jpg")
    (tmp_path / "again.zip").write_bytes(changed)
    with pytest.raises(UserError, match="may be that of 'test_é' and of 'test_Θ'.*names in UTF-8"):
        prepare_drseg.prepare(tmp_path / "again.zip", tmp_path / "out", checksum=False)


def test_records_may_share_a_picture(archive: Path, tmp_path: Path) -> None:
    members = published_members()
    twice = [{"id": name, "questions": [str(i)]} for i in range(2) for name in IDS["test"]]
    members["DRSeg/annotations/DRSeg_test.json"] = json.dumps(twice).encode()
    assert prepare_other(tmp_path, members) == COUNTS | {"test": 8}
    assert len(list((tmp_path / "out/CODrone/DRtest").iterdir())) == COUNTS["test"]


def test_an_empty_folder_or_a_link_that_is_there_already_is_filled(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "big")
    for overwrite in (False, True):
        prepare_drseg.prepare(archive, tmp_path / "out", overwrite)
        check_layout(tmp_path / "big")
    assert (tmp_path / "out").is_symlink() and {path.name for path in (tmp_path / "big").iterdir()} == {
        "labels",
        "CODrone",
    }


def test_an_archive_that_may_not_be_read_is_told_as_that(archive: Path, tmp_path: Path) -> None:
    for checksum in (True, False):
        with refused(archive), pytest.raises(UserError, match=f"^{archive}: permission denied"):
            prepare_drseg.prepare(archive, tmp_path / "out", checksum=checksum)
