"""utils.runtime.errors: what a script's mistake looks like from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils.runtime import errors
from utils.runtime.errors import OTHERS_WAIT_SECONDS, UserError, config_errors_as_user_error, first_line, run_main


def mistaken() -> None:
    raise UserError("data/x: no such data folder")


def status_of(main) -> int:
    with pytest.raises(SystemExit) as left:
        run_main(main)
    return left.value.code


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were slept, without sleeping."""
    seconds: list[float] = []
    monkeypatch.setattr(errors.time, "sleep", seconds.append)
    return seconds


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (3, 3)])
def test_the_status_is_what_main_returns(returned: int | None, status: int) -> None:
    assert status_of(lambda: returned) == status


def test_a_users_error_is_one_line_and_status_2(
    slept: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert status_of(mistaken) == 2
    assert capsys.readouterr() == ("", "error: data/x: no such data folder\n")
    assert not slept


def test_of_several_processes_the_first_speaks_at_once_and_the_others_after_a_while(
    slept: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert status_of(mistaken) == 2 and not slept
    capsys.readouterr()

    monkeypatch.setenv("LOCAL_RANK", "1")
    spoken_before = []
    monkeypatch.setattr(
        errors.time, "sleep", lambda s: (slept.append(s), spoken_before.append(capsys.readouterr().err))
    )
    assert status_of(mistaken) == 2
    assert slept == [OTHERS_WAIT_SECONDS] and spoken_before == [""]
    assert "no such data folder" in capsys.readouterr().err  # not lost, had the launcher let it live


def test_an_interruption_has_the_shells_status(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert status_of(interrupted) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_an_error_of_the_code_keeps_its_traceback() -> None:
    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_main(broken)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("mask_size is 0"), "config.json: mask_size is 0"),
        (TypeError("one\n  line"), "config.json: one line"),
        (ValueError(), "config.json: ValueError"),
        (AssertionError(), "config.json: AssertionError"),
        (ZeroDivisionError("division by zero"), "config.json: ZeroDivisionError division by zero"),
        (UserError("as it was"), "as it was"),
    ],
    ids=repr,
)
def test_what_a_configuration_makes_libraries_raise_is_its_own_fault(error: Exception, message: str) -> None:
    with pytest.raises(UserError) as caught, config_errors_as_user_error("config.json"):
        raise error
    assert str(caught.value) == message


def test_the_first_line_of_an_error_stands_for_it() -> None:
    assert first_line(ValueError(" one \ntwo")) == "one " and first_line(KeyError()) == "KeyError"
    assert len(first_line(ValueError("x" * 999))) == 300


def test_a_letter_that_the_terminal_lacks_costs_no_result() -> None:
    code = "from utils.runtime.errors import run_main; run_main(lambda: print('gIoU in Straße \\ud83d'))"
    for encoding in ("ascii", "latin-1", "utf-8"):
        ended = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}
        )
        assert ended.returncode == 0 and ended.stdout.startswith(b"gIoU in Stra") and b"\\ud83d" in ended.stdout


def test_a_reader_that_has_left_does_not_keep_a_command_from_its_files(tmp_path: Path) -> None:
    code = """
from pathlib import Path
from utils.runtime.errors import print_result, run_main

def main():
    print_result("x" * 200_000)
    print_result("more")
    Path("file").touch()

run_main(main)
"""
    environ = {**os.environ, "PYTHONPATH": os.getcwd()}
    running = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    running.stdout.read(1)
    running.stdout.close()
    assert running.stderr.read() == b"" and running.wait() == 0 and (tmp_path / "file").exists()
    running.stderr.close()


def test_what_lies_in_a_files_place_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run_main(lambda: open(tmp_path).close())
    assert left.value.code == 2 and f"{tmp_path}: Is a directory; move it away" in capsys.readouterr().err
