"""utils.runtime.logs: who speaks, and where to."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from utils.runtime import logs
from utils.runtime.errors import never_fail_to_print
from utils.runtime.logs import NOISY, TqdmHandler, peak_memory_gib, start_logging


@pytest.fixture(autouse=True)
def root() -> Iterator[logging.Logger]:
    """The root logger without pytest's handlers, which come back unharmed."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    levels = {name: logging.getLogger(name).level for name in NOISY}
    logger.handlers.clear()
    yield logger
    for handler in logger.handlers:
        handler.close()
    logger.handlers[:] = handlers
    logger.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def test_the_first_process_writes_to_terminal_and_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new" / "train.log"
    start_logging(file)
    logging.getLogger("train").info("step %d", 3)
    logging.getLogger("train").debug("not this")
    said = capsys.readouterr()
    assert said.err == file.read_text() and said.out == ""
    assert said.err.endswith(" I step 3\n") and said.err.count("\n") == 1


def test_a_second_start_adds_to_the_file_and_doubles_no_line(tmp_path: Path, root: logging.Logger) -> None:
    for i in range(3):
        start_logging(tmp_path / "train.log")
        logging.getLogger("train").info("start %d", i)
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [line.split(" I ")[1] for line in lines] == ["start 0", "start 1", "start 2"]
    assert len(root.handlers) == 2


def test_other_processes_report_errors_alone_and_open_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logs, "rank", lambda: 1)
    start_logging(tmp_path / "train.log")
    logging.getLogger("train").warning("nothing")
    logging.getLogger("train").error("something")
    assert capsys.readouterr().err.endswith(" E something\n")
    assert not list(tmp_path.iterdir())


def test_libraries_warn_but_do_not_chat(capsys: pytest.CaptureFixture[str]) -> None:
    start_logging()
    logging.getLogger("PIL.Image").info("chat")
    logging.getLogger("DeepSpeed").warning("warning")
    assert [line.split(" W ")[1] for line in capsys.readouterr().err.splitlines()] == ["warning"]


def test_lines_go_above_a_progress_bar(monkeypatch: pytest.MonkeyPatch, root: logging.Logger) -> None:
    written: list[str] = []
    monkeypatch.setattr(logs.tqdm, "write", lambda text, file: written.append(text))
    start_logging()
    assert isinstance(root.handlers[0], TqdmHandler)
    logging.getLogger("train").info("above")
    assert len(written) == 1 and written[0].endswith("above")


def test_memory_is_that_of_this_process_in_gib() -> None:
    assert 0.05 < peak_memory_gib() < 200


def test_a_line_with_a_name_that_is_no_utf8_is_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    never_fail_to_print()  # as every script does
    start_logging(tmp_path / "train.log")
    logging.getLogger("x").warning("%s", "caf\udce9.jpg")
    assert r"caf\udce9.jpg" in (tmp_path / "train.log").read_text(encoding="utf-8")
    assert "Logging error" not in capsys.readouterr().err
