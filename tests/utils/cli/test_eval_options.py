"""utils.cli.eval_options: what is given, what has to be, and what cannot be."""

from __future__ import annotations

import pytest

from model.language.decoding import Decoding
from utils.cli.eval_options import EvalArgs, decoding_of, parse_eval
from utils.runtime.errors import UserError

NAMED = ["--model", "m", "--data", "d"]


def test_evaluation() -> None:
    assert parse_eval(NAMED) == EvalArgs(model="m", data="d")
    args = parse_eval([*NAMED, "--controls", "--overlays", "4", "--limit", "9", "--skip-bad-records"])
    assert (args.controls, args.overlays, args.limit, args.skip_bad_records) == (True, 4, 9, True)
    args = parse_eval(
        [*NAMED, "--protocol", "generate", "--reasoning", "own", "--temperature", "0.5", "--top-p", "0.9"]
    )
    assert (args.protocol, args.reasoning) == ("generate", "own")
    assert decoding_of(args) == Decoding(256, temperature=0.5, top_p=0.9)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--protocol", "free", "--protocol is 'free'; known are forced, generate"),
        ("--reasoning", "some", "--reasoning is 'some'; known are none, own, given"),
        ("--temperature", "-1", "--max-new-tokens, --temperature, --top-p or --beams: "),
        ("--temperature", "nan", "--temperature, .*: temperature is nan; it must be finite and not negative"),
        ("--temperature", "inf", "--temperature, .*: temperature is inf; it must be finite and not negative"),
        ("--top-p", "0.9", "--top-p or --beams: top_p is 0.9, which is of sampling; the temperature must be above 0"),
        ("--beams", "0", "--max-new-tokens, --temperature, --top-p or --beams: "),
    ],
)
def test_evaluation_knows_its_protocols(option: str, value: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_eval([*NAMED, option, value])


@pytest.mark.parametrize("given", [["--protocol", "generate"], ["--reasoning", "own"], ["--controls"]])
def test_shards_are_for_one_forced_pass(given: list[str]) -> None:
    with pytest.raises(UserError, match="--shard gathers weights for one teacher-forced pass"):
        parse_eval([*NAMED, "--shard", *given])


def test_shards_are_not_quantised() -> None:
    with pytest.raises(UserError, match="--shard and --load-in are two ways to fit a large model in; leave one out"):
        parse_eval([*NAMED, "--shard", "--load-in", "4bit"])


def test_precision_has_a_second_name() -> None:
    args = parse_eval([*NAMED, "--dtype", "bf16", "--load-in", "4bit", "--device", "mps"])
    assert (args.precision, args.load_in, args.device) == ("bf16", "4bit", "mps")
    assert parse_eval(NAMED).load_in is None


@pytest.mark.parametrize("given", [["--model", "m"], ["--data", "d"]])
def test_evaluation_takes_no_model_and_no_data_in_silence(given: list[str]) -> None:
    lacking = "--data" if given[0] == "--model" else "--model"
    with pytest.raises(UserError, match=f"{lacking} is not given; name a folder"):
        parse_eval(given)


@pytest.mark.parametrize("option", ["--batch-size", "--pass-size", "--threads", "--limit"])
def test_evaluation_refuses_less_than_one(option: str) -> None:
    with pytest.raises(UserError, match=f"{option} is 0; it must be at least 1"):
        parse_eval([*NAMED, option, "0"])


@pytest.mark.parametrize("option", ["--workers", "--overlays", "--seed"])
def test_evaluation_refuses_less_than_none(option: str) -> None:
    with pytest.raises(UserError, match=f"{option} is -1; it must be at least 0"):
        parse_eval([*NAMED, option, "-1"])
