"""utils.runtime.files: what is whole or not there, and who may write at the same time."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from tests.training import CHECKOUT
from utils.runtime import files
from utils.runtime.errors import UserError
from utils.runtime.files import (
    append_line,
    atomic_folder,
    check_utf8_path,
    exclusive_lock,
    file_hash,
    make_output_folder,
    write_errors_as_user_error,
    write_json,
)
from utils.runtime.json_files import read_json
from utils.runtime.progress import PlainBar

HOLD = """
import sys
from pathlib import Path
from utils.runtime.files import exclusive_lock

with exclusive_lock(Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.readline()
print("out", flush=True)
"""


def hold(lock: Path) -> subprocess.Popen:
    """A process that is in the block until it is sent a line."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    other = subprocess.Popen([sys.executable, "-c", HOLD, lock], cwd=CHECKOUT, **pipes)
    assert other.stdout.readline() == "in\n"
    return other


def test_one_process_at_a_time(tmp_path: Path) -> None:
    other = hold(tmp_path / "lock")
    with pytest.raises(BlockingIOError, match="another process has .*lock"), exclusive_lock(tmp_path / "lock"):
        pass
    other.communicate("\n", timeout=60)
    with exclusive_lock(tmp_path / "lock"):
        assert (tmp_path / "lock").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_keeps_nobody_out(tmp_path: Path) -> None:
    other = hold(tmp_path / "lock")
    other.kill()
    other.communicate()
    with exclusive_lock(tmp_path / "lock"):
        pass


def test_who_waits_comes_in_when_the_other_is_out(tmp_path: Path) -> None:
    other = hold(tmp_path / "lock")
    other.stdin.write("\n")
    other.stdin.flush()
    with exclusive_lock(tmp_path / "lock", wait=True):
        pass
    assert other.communicate(timeout=60)[0] == "out\n"


def test_after_an_error_the_folder_is_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old").write_text("kept")
    with pytest.raises(KeyError), atomic_folder(tmp_path / "out") as beside:
        (beside / "new").write_text("half")
        raise KeyError
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]
    with atomic_folder(tmp_path / "out") as beside:
        (beside / "new").write_text("whole")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "new"]


def test_a_line_that_does_not_fit_leaves_the_lines_before(tmp_path: Path) -> None:
    append_line(tmp_path / "lines", "ä" * 10)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30, before[1]))  # stands in for a full disk
    try:
        with pytest.raises(OSError, match="large"):
            append_line(tmp_path / "lines", "b" * 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    append_line(tmp_path / "lines", "c")
    assert (tmp_path / "lines").read_text() == "ä" * 10 + "\nc\n"


def test_a_results_folder_that_cannot_be(tmp_path: Path) -> None:
    assert make_output_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=f"--out {path}: cannot be made a folder"):
            make_output_folder(path)
    assert (tmp_path / "file").read_text() == "kept"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with atomic_folder(tmp_path / "runs" / "last") as beside:
            (beside / name).write_text(name)
            assert "second" not in [path.name for path in (tmp_path / "runs").glob("last/*")]
        assert content(tmp_path / "runs" / "last") == {name: name.encode()}
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["last"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_after_an_error_the_old_folder_is_as_it_was(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "weights").write_text("old")
    with pytest.raises(error), atomic_folder(tmp_path / "last") as beside:
        (beside / "weights").write_text("half")
        raise error
    assert content(tmp_path / "last") == {"weights": b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "weights").write_text("old")
    rename = Path.rename

    def refusing(path: Path, to: Path) -> Path:
        if path.name.endswith(".writing"):
            raise OSError(5, "Input/output error")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", refusing)
    with pytest.raises(OSError, match="Input/output"), atomic_folder(tmp_path / "last"):
        pass
    assert content(tmp_path / "last") == {"weights": b"old"}


def test_what_a_killed_process_left_is_not_mixed_in(tmp_path: Path) -> None:
    for left in (".last.writing", ".last.old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "stale").write_text("half")
    (tmp_path / "last").mkdir()
    with atomic_folder(tmp_path / "last") as beside:
        (beside / "weights").write_text("new")
    assert content(tmp_path / "last") == {"weights": b"new"}
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_json_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "new" / "metrics.json"
    write_json(file, {"name": "Straße", "value": 1})
    before = file.read_bytes()
    assert json.loads(before) == {"name": "Straße", "value": 1}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(file, {"giou": float("nan")})

    def full(self: Path, data: bytes) -> None:
        with self.open("wb") as half:
            half.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_json(file, {"name": "other"})
    assert file.read_bytes() == before and list(file.parent.iterdir()) == [file]


# What is said where writing fails

PERMISSION = "this user may not write there: change the permissions or name another place"
FULL = "the disk is full: make room or name another place"
TOO_LARGE = "a file may not be so large there: raise the limit (ulimit -f) or name another place"
UNKNOWN = "is the disk full?"


@pytest.mark.parametrize(
    ("error", "cure"),
    [
        (OSError(errno.EACCES, "Permission denied"), PERMISSION),
        (OSError(errno.EPERM, "Operation not permitted"), PERMISSION),
        (OSError(errno.EROFS, "Read-only file system"), PERMISSION),
        (SafetensorError("I/O error: Permission denied (os error 13)"), PERMISSION),
        (OSError(errno.ENOSPC, "No space left on device"), FULL),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), FULL),
        (SafetensorError("I/O error: No space left on device (os error 28)"), FULL),
        (OSError(errno.EFBIG, "File too large"), TOO_LARGE),
        (SafetensorError("I/O error: File too large (os error 27)"), TOO_LARGE),
        (RuntimeError("basic_ios::clear: iostream error"), UNKNOWN),  # torch.save, which does not say why
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), UNKNOWN),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), UNKNOWN),
        (SafetensorError("something else"), UNKNOWN),
        (OSError(errno.EIO, "Input/output error"), "name another place"),
    ],
    ids=str,
)
def test_each_failure_to_write_has_its_cure(tmp_path: Path, error: Exception, cure: str) -> None:
    with pytest.raises(UserError) as caught, write_errors_as_user_error(tmp_path / "out"):
        raise error
    assert str(caught.value) == f"{tmp_path / 'out'}: not written, and nothing half-written is left ({error}); {cure}"
    assert caught.value.__cause__ is error


def test_torch_says_in_words_that_this_user_may_not_write_there() -> None:
    refused = "[enforce fail at inline_container.cc:747] . open file failed with strerror: Permission denied"
    with pytest.raises(UserError, match=re.escape(PERMISSION)), write_errors_as_user_error(Path("out")):
        raise RuntimeError(refused)


@pytest.mark.parametrize("error", [RuntimeError("the shapes do not match"), KeyError("a"), UserError("no such data")])
def test_an_error_that_is_not_of_writing_passes_through(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, write_errors_as_user_error(Path("out")):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("write", "cure"),
    [
        (lambda path: path.write_bytes(bytes(9000)), TOO_LARGE),
        (lambda path: save_file({"a": torch.zeros(3000)}, path), TOO_LARGE),
        (lambda path: torch.save(torch.zeros(3000), path), UNKNOWN),
    ],
    ids=["python", "safetensors", "torch"],
)
def test_what_the_writers_really_raise_is_known(tmp_path: Path, write: Callable[[Path], object], cure: str) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(UserError, match=re.escape(f"; {cure}")), write_errors_as_user_error(tmp_path / "out"):
            write(tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# Hashes


def test_a_hash_is_of_prefix_and_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(range(256)) * (5 << 12) + b"end"  # more than one piece
    (tmp_path / "file").write_bytes(content)
    assert file_hash(tmp_path / "file") == hashlib.sha256(content).hexdigest()
    expected = hashlib.sha1(b"blob 3\0" + content).hexdigest()
    assert file_hash(tmp_path / "file", "sha1", prefix=b"blob 3\0") == expected
    bars: list[PlainBar] = []
    monkeypatch.setattr(files, "byte_bar", lambda total, label: bars.append(PlainBar(total, label)) or bars[-1])
    assert file_hash(tmp_path / "file", label="weights") == hashlib.sha256(content).hexdigest()
    assert [(bar.desc, bar.n, bar.total) for bar in bars] == [("weights", len(content), len(content))]
    (tmp_path / "empty").touch()
    assert file_hash(tmp_path / "empty") == hashlib.sha256().hexdigest()


def test_json_of_a_path_that_is_no_utf8_is_utf8_and_comes_back(tmp_path: Path) -> None:
    value = {"data": "caf\udce9", "name": "Straße"}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json", strict=False) == value
    assert "Straße" in (tmp_path / "x.json").read_text(encoding="utf-8")


def test_a_path_that_is_no_utf8_is_refused_where_weights_go() -> None:
    check_utf8_path("Straße")
    with pytest.raises(UserError, match=r"--run-dir caf.xe9: the path holds U\+DCE9, .*rename it"):
        check_utf8_path("caf\udce9", "--run-dir")
