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
    args, pictures = parse_infer(argv)
    assert args.ask == "Which car?" and pictures == [Path("a.jpg"), Path("b.jpg")]


def test_inference_needs_a_question_a_picture_and_room(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="--ask is empty"):
        parse_infer(["a.jpg", "--ask", " "])
    with pytest.raises(UserError, match="--max-new-tokens is 0"):
        parse_infer(["a.jpg", "--ask", "Which?", "--max-new-tokens", "0"])
    with pytest.raises(SystemExit) as left:
        parse_infer(["--ask", "Which?"])
    assert left.value.code == 2 and "pictures" in capsys.readouterr().err
