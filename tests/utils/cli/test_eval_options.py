"""utils.cli.eval_options: what is given, what has to be, and what cannot be."""

from __future__ import annotations

import pytest

from utils.cli.eval_options import EvalArgs, parse_eval
from utils.runtime.errors import UserError

NAMED = ["--model", "m", "--data", "d"]


def test_evaluation() -> None:
    assert parse_eval(NAMED) == EvalArgs(model="m", data="d")
    assert parse_eval(NAMED).control == "none"
    args = parse_eval([*NAMED, "--control", "swapped-images", "--overlays", "4", "--limit", "9", "--skip-bad-records"])
    assert (args.control, args.overlays, args.limit, args.skip_bad_records) == ("swapped-images", 4, 9, True)


@pytest.mark.parametrize("given", [["--model", "m"], ["--data", "d"]])
def test_evaluation_takes_no_model_and_no_data_in_silence(given: list[str]) -> None:
    lacking = "--data" if given[0] == "--model" else "--model"
    with pytest.raises(UserError, match=f"{lacking} is not given; name a folder"):
        parse_eval(given)


def test_evaluation_knows_its_controls() -> None:
    with pytest.raises(UserError, match="--control is 'blank'; known are none, shuffled-questions, swapped-images"):
        parse_eval([*NAMED, "--control", "blank"])


@pytest.mark.parametrize("option", ["--batch-size", "--threads", "--limit"])
def test_evaluation_refuses_less_than_one(option: str) -> None:
    with pytest.raises(UserError, match=f"{option} is 0; it must be at least 1"):
        parse_eval([*NAMED, option, "0"])


@pytest.mark.parametrize("option", ["--workers", "--overlays"])
def test_evaluation_refuses_less_than_none(option: str) -> None:
    with pytest.raises(UserError, match=f"{option} is -1; it must be at least 0"):
        parse_eval([*NAMED, option, "-1"])
