"""utils.runtime.paths and what utils.runtime.files writes there: links, mount points, modes, long names."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.permissions import refused
from tests.training import CHECKOUT
from utils.runtime import files, paths
from utils.runtime.errors import UserError, run_main
from utils.runtime.files import append_line, atomic_file, atomic_folder, atomic_write, make_output_folder
from utils.runtime.logs import start_logging
from utils.runtime.paths import entries, exists, fitting_name, has_content, is_file, is_folder, working_place

Fill = dict[str, bytes]


def content(folder: Path) -> Fill:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def write(target: Path, name: str, fails: bool = False) -> None:
    with atomic_folder(target) as beside:
        (beside / "sub").mkdir()
        (beside / "sub" / name).write_text(name)
        (beside / "weights").write_text(name)
        if fails:
            raise KeyError


# Links


@pytest.mark.parametrize("there", ["empty", "filled", "absent"])
def test_a_folder_behind_a_link_is_written_there_every_time(tmp_path: Path, there: str) -> None:
    (tmp_path / "big").mkdir()
    if there != "absent":
        (tmp_path / "big/best").mkdir()
    if there == "filled":
        (tmp_path / "big/best/old").write_text("old")
    (tmp_path / "best").symlink_to("again")
    (tmp_path / "again").symlink_to(tmp_path / "big/best")  # one that leads to another
    for name in ("a", "b", "c"):
        write(tmp_path / "best", name)
        assert (tmp_path / "best").is_symlink() and (tmp_path / "again").is_symlink()
        assert content(tmp_path / "big/best") == {"sub/" + name: name.encode(), "weights": name.encode()}
    with pytest.raises(KeyError):
        write(tmp_path / "best", "d", fails=True)
    assert content(tmp_path / "best")["weights"] == b"c"
    assert [path.name for path in (tmp_path / "big").iterdir()] == ["best"]
    assert {path.name for path in tmp_path.iterdir()} == {"again", "best", "big"}


def test_a_file_behind_a_link_is_written_there(tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "metrics.json").symlink_to(tmp_path / "big/metrics.json")
    for text in (b"one", b"two"):
        atomic_write(tmp_path / "metrics.json", text)
        assert (tmp_path / "metrics.json").is_symlink() and (tmp_path / "big/metrics.json").read_bytes() == text
    assert [path.name for path in (tmp_path / "big").iterdir()] == ["metrics.json"]


def test_a_results_folder_behind_a_link_whose_end_is_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "big/out")
    make_output_folder(tmp_path / "out")
    assert (tmp_path / "big/out").is_dir() and (tmp_path / "out").is_symlink()


def test_a_link_that_an_earlier_version_put_aside_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / ".best.old").symlink_to(tmp_path / "big")
    write(tmp_path / "best", "a")
    write(tmp_path / "best", "b")
    assert content(tmp_path / "best")["weights"] == b"b" and (tmp_path / "big").is_dir()


# Folders that cannot be renamed


def fixed(monkeypatch: pytest.MonkeyPatch, target: Path, number: int) -> None:
    """Let a folder refuse to be renamed, as a mount point does."""
    rename = os.rename

    def refusing(old: Path | str, new: Path | str, *given: object, **named: object) -> None:
        if target in (Path(old), Path(new)):
            raise OSError(number, os.strerror(number), str(old))
        rename(old, new, *given, **named)

    monkeypatch.setattr(os, "rename", refusing)
    monkeypatch.setattr(Path, "rename", lambda self, to: refusing(self, to) or Path(to))


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EXDEV, errno.EACCES])
def test_a_folder_that_cannot_be_renamed_is_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    target = tmp_path / "DRSeg"
    target.mkdir()
    (target / "lost+found").mkdir()
    fixed(monkeypatch, target, number)
    number_of_it = target.stat().st_ino
    for name in ("a", "b"):
        write(target, name)
        assert content(target) == {"sub/" + name: name.encode(), "weights": name.encode()}
    with pytest.raises(KeyError):
        write(target, "c", fails=True)
    assert content(target)["weights"] == b"b" and target.stat().st_ino == number_of_it
    assert {path.name for path in target.iterdir()} == {"lost+found", "sub", "weights"}
    assert [path.name for path in tmp_path.iterdir()] == ["DRSeg"]


@pytest.mark.parametrize("fails_at", ["weights", "sub", "old"])
def test_filling_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: str
) -> None:
    (tmp_path / "old").write_text("old")
    (tmp_path / "older").mkdir()
    (tmp_path / "older/one").write_text("older")
    move = shutil.move

    def failing(source: Path, to: Path) -> None:
        if Path(source).name == fails_at and (fails_at != "old" or Path(source).parent == tmp_path):
            raise OSError(errno.EIO, "Input/output error")
        move(source, to)

    monkeypatch.setattr(paths, "can_only_be_filled", lambda folder: folder == tmp_path)
    monkeypatch.setattr(shutil, "move", failing)
    with pytest.raises(OSError, match="Input/output"):
        write(tmp_path, "new")
    assert content(tmp_path) == {"old": b"old", "older/one": b"older"}
    assert {path.name for path in tmp_path.iterdir()} == {"old", "older"}


def test_what_a_killed_process_put_aside_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "best", "a")
    (tmp_path / "best").rename(tmp_path / ".best.old")  # and then it was killed
    with pytest.raises(KeyError):
        write(tmp_path / "best", "b", fails=True)
    assert content(tmp_path / "best")["weights"] == b"a" and not (tmp_path / ".best.old").exists()
    (tmp_path / "best/.pixdlm.old").mkdir()
    (tmp_path / "best/weights").rename(tmp_path / "best/.pixdlm.old/weights")
    monkeypatch.setattr(paths, "can_only_be_filled", lambda folder: folder == tmp_path / "best")
    with pytest.raises(KeyError):
        write(tmp_path / "best", "b", fails=True)
    assert content(tmp_path / "best") == {"sub/a": b"a", "weights": b"a"}


MOUNTED = """
mount --bind {big} {target} || exit 77
for name in a b; do {python} -c "
import sys
from pathlib import Path
from utils.runtime.files import atomic_folder
with atomic_folder(Path(sys.argv[1])) as beside:
    (beside / 'sub').mkdir()
    (beside / 'sub/weights').write_text(sys.argv[2])
" {target} $name || exit 1; done
"""


def test_a_real_mount_point_is_filled(tmp_path: Path) -> None:
    """A bind mount of the same file system, which only tells of itself by refusing to be renamed."""
    big, target = tmp_path / "big", tmp_path / "target"
    big.mkdir(), target.mkdir()
    script = MOUNTED.format(big=big, target=target, python=sys.executable)
    ended = subprocess.run(["unshare", "-m", "bash", "-c", script], cwd=CHECKOUT, capture_output=True, text=True)
    if ended.returncode == 77 or "unshare" in ended.stderr:
        pytest.skip("nothing can be mounted here")
    assert ended.returncode == 0, ended.stderr
    assert content(big) == {"sub/weights": b"b"} and content(target) == {}
    assert {path.name for path in tmp_path.iterdir()} == {"big", "target"}


def test_the_folder_that_a_process_is_in_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    number = tmp_path.stat().st_ino
    write(Path("."), "a")
    assert content(Path(".")) == {"sub/a": b"a", "weights": b"a"} and tmp_path.stat().st_ino == number


def test_a_file_systems_own_folder_is_no_content(tmp_path: Path) -> None:
    assert not has_content(tmp_path / "none") and not has_content(tmp_path)
    (tmp_path / "lost+found").mkdir()
    assert not has_content(tmp_path)
    (tmp_path / "file").write_text("")
    assert has_content(tmp_path) and has_content(tmp_path / "file")


# Modes


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_modes_are_as_the_umask_says(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        with atomic_folder(tmp_path / "best") as beside:
            (beside / "clip").mkdir()
            for path in (beside, beside / "clip"):
                save_file({"a": torch.ones(2)}, path / "model.safetensors")
                torch.save({"a": torch.ones(2)}, path / "pytorch_model.bin")
        for _ in range(2):  # a new file, and one that takes another's place
            with atomic_file(tmp_path / "parts.safetensors") as beside:
                save_file({"a": torch.ones(2)}, beside)
        atomic_write(tmp_path / "metrics.json", b"{}")
    finally:
        os.umask(before)
    found = {path: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert len(found) == 8
    assert {oct(found[path]) for path in found if path.is_file()} == {oct(mode)}
    assert {oct(found[path]) for path in found if path.is_dir()} == {oct(0o777 & ~mask)}


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o2770)
    write(tmp_path / "shared", "a")
    assert oct((tmp_path / "shared").stat().st_mode & 0o7777) == "0o2770"


# What may not be read


def test_what_may_not_be_read_is_told_as_that(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    file = tmp_path / "data/labels.json"
    file.write_text("[]")
    with refused(file), pytest.raises(UserError, match=f"{file}: permission denied"):
        is_file(file)
    with refused(file.parent):
        for look in (is_file, is_folder, exists):
            with pytest.raises(UserError, match=f"{file}: permission denied"):
                look(file)
        with pytest.raises(UserError, match=f"{file.parent}: permission denied"):
            entries(file.parent)
    assert is_file(file) and exists(file) and not is_folder(file) and entries(file.parent) == [file]


def test_names_that_cannot_be_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / ("n" * 300), tmp_path / "file/below", tmp_path / "loop", tmp_path / "none"):
        assert not is_file(path) and not is_folder(path) and not exists(path) and entries(path) == []


def test_a_file_that_the_system_refuses_ends_a_script_with_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "anything").write_text("")
    with refused(tmp_path / "anything"), pytest.raises(SystemExit) as ended:
        run_main(lambda: (tmp_path / "anything").read_text())
    assert ended.value.code == 2 and f"error: {tmp_path / 'anything'}: permission denied" in capsys.readouterr().err


# Names


@pytest.mark.parametrize("letter", ["n", "ä", "語", "🚁"])
def test_names_near_the_limit_can_be_written(tmp_path: Path, letter: str) -> None:
    name = letter * (255 // len(letter.encode()))
    atomic_write(tmp_path / name, b"whole")
    assert (tmp_path / name).read_bytes() == b"whole"
    (tmp_path / name).unlink()
    for _ in range(2):
        write(tmp_path / name, "a")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert len(os.fsencode(working_place(tmp_path / name, "writing").name)) <= 255


@pytest.mark.parametrize("letter", ["n", "ä", "語", "🚁"])
def test_a_name_that_is_too_long_is_cut_between_letters(tmp_path: Path, letter: str) -> None:
    ending = ".overlay.jpg"
    assert fitting_name(tmp_path, "x" * 243, ending) == "x" * 243 + ending
    names = {fitting_name(tmp_path, letter * 250 + last, ending) for last in "ab"}
    assert len(names) == 2  # which differ beyond the cut
    for name in names:
        assert name.startswith(letter * 10) and name.endswith(ending) and 245 < len(name.encode()) <= 255
        (tmp_path / name).write_text("")


def test_two_long_names_side_by_side_have_places_of_their_own(tmp_path: Path) -> None:
    assert working_place(tmp_path / ("n" * 200), "w") != working_place(tmp_path / ("n" * 201), "w")
    assert working_place(tmp_path / "best", "writing").name == ".best.writing"


# Lines


@pytest.mark.parametrize("before", ['{"picture": "earlier.jpg"}', '{"pict', '{"a": 1}\n', ""])
def test_a_line_is_a_line_of_its_own(tmp_path: Path, before: str) -> None:
    (tmp_path / "answers.jsonl").write_text(before)
    append_line(tmp_path / "answers.jsonl", '{"b": 2}')
    append_line(tmp_path / "answers.jsonl", '{"c": 3}')
    expected = [*before.splitlines(), '{"b": 2}', '{"c": 3}']
    assert (tmp_path / "answers.jsonl").read_text() == "\n".join(expected) + "\n"


def test_a_log_whose_last_line_was_cut_goes_on_in_a_new_one(tmp_path: Path) -> None:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    (tmp_path / "train.log").write_text("12:00:00 I step 1")
    try:
        root.handlers.clear()
        start_logging(tmp_path / "train.log")
        logging.getLogger("x").info("goes on")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    first, second = (tmp_path / "train.log").read_text().splitlines()
    assert first == "12:00:00 I step 1" and second.endswith("goes on")


def test_two_that_write_one_folder_leave_one_of_both(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from utils.runtime.files import atomic_folder
for _ in range(20):
    with atomic_folder(Path(sys.argv[1])) as beside:
        for name in "abcd":
            (beside / name).write_text(sys.argv[2])
            time.sleep(0.001)
"""
    target = tmp_path / "best"
    both = [subprocess.Popen([sys.executable, "-c", code, target, name], cwd=CHECKOUT) for name in "xy"]
    assert [one.wait(timeout=120) for one in both] == [0, 0]
    found = content(target)
    assert set(found) == set("abcd") and len(set(found.values())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_name_that_is_too_long_is_not_blamed_on_the_disk(tmp_path: Path) -> None:
    out = tmp_path / ("n" * 256)
    with pytest.raises(UserError, match="too long") as told, files.write_errors_as_user_error(out):
        atomic_write(out, b"")
    assert "disk" not in str(told.value)


def test_a_kill_while_the_old_content_is_deleted_leaves_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a folder that can only be filled: old files that are left must not come back among new ones."""
    folder = tmp_path / "mount"
    folder.mkdir()
    for name in "ab":
        (folder / name).write_text("old")
    monkeypatch.setattr(paths, "can_only_be_filled", lambda path: path == folder)
    remove = paths.remove

    def killed(path: Path) -> None:
        if path.name.endswith("replaced") and path.exists():
            (path / "a").unlink()
            raise KeyboardInterrupt
        remove(path)

    monkeypatch.setattr(paths, "remove", killed)
    with pytest.raises(KeyboardInterrupt), files.atomic_folder(folder) as beside:
        for name in "ab":
            (beside / name).write_text("new")
    monkeypatch.setattr(paths, "remove", remove)
    with pytest.raises(OSError, match="full"), files.atomic_folder(folder):
        raise OSError("full")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"a": "new", "b": "new"}


def test_a_link_that_leads_to_itself_is_told(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match="loop: a symbolic link that leads to itself"):
        with files.atomic_folder(tmp_path / "loop"):
            pass
    assert (tmp_path / "loop").is_symlink()
