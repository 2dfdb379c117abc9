"""utils.cli.infer_options: pictures among options, and what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.cli.infer_options import parse_infer
from utils.runtime.errors import UserError


@pytest.mark.parametrize(
    "argv",
    [
        ["a.jpg", "b.jpg", "--ask", "Which car?"],
        ["--ask", "Which car?", "a.jpg", "b.jpg"],
        ["a.jpg", "--ask", "Which car?", "b.jpg"],
    ],
)
def test_pictures_may_stand_anywhere(argv: list[str]) -> None:
    args = parse_infer(argv)
    assert args.ask == ["Which car?"] and args.pictures == ["a.jpg", "b.jpg"]


def test_several_questions_and_where_results_go() -> None:
    args = parse_infer(["--ask", "One?", "a.jpg", "--ask", "Two?"])
    assert (
        args.ask == ["One?", "Two?"]
        and args.folder == Path("runs/infer")
        and args.files == {"mask", "overlay", "geojson"}
    )
    piped = parse_infer(["a.jsonl", "--json", "-", "--write", "none"])
    assert piped.folder is None and piped.files == frozenset()
    assert parse_infer(["a.jsonl", "--json", "-", "--out", "o"]).folder == Path("o")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--write", "mask,picture"], "--write is 'mask,picture'; known are mask, overlay, geojson"),
        (["--json", "a.json"], "--json is 'a.json'; it takes - alone"),
        (["--json", "-", "--resume"], "--resume goes on in a folder"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--every", "-1"], "--every is -1"),
        (["--every", "nan"], "--every is nan"),
        (["--tolerance", "inf"], "--tolerance is inf; it must be finite"),
    ],
)
def test_what_cannot_be_is_told(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_infer(["a.jpg", "--ask", "Which?", *options])


def test_inference_needs_a_question_a_picture_and_room(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="--ask is empty"):
        parse_infer(["a.jpg", "--ask", " "])
    with pytest.raises(UserError, match="--max-new-tokens is 0"):
        parse_infer(["a.jpg", "--ask", "Which?", "--max-new-tokens", "0"])
    with pytest.raises(SystemExit) as left:
        parse_infer(["--ask", "Which?"])
    assert left.value.code == 2 and "pictures" in capsys.readouterr().err
