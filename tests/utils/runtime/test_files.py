"""utils.runtime.files: what is whole or not there, and who may write at the same time."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training import CHECKOUT, Server
from utils.runtime.errors import UserError
from utils.runtime.files import append_line, atomic_folder, exclusive_lock, make_output_folder

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


def test_two_that_draw_the_same_set_draw_it_once(server: Server, tmp_path: Path) -> None:
    code = "import runpy; runpy.run_module('utils.mini_drseg', run_name='__main__')"
    arguments = ["--out", tmp_path / "set", "--if-missing", "--workers", "1"]
    arguments += ["--train", "6", "--val", "3", "--test", "3"]
    ended = server.run_code(code, *map(str, arguments), world=2)
    assert sum("wrote" in one.stderr for one in ended) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"set"}
    assert len(list((tmp_path / "set").rglob("*.jpg"))) == 4


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
