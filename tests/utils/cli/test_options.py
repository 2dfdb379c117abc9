"""utils.cli.options: options, the defaults a configuration prefers, and what cannot be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import torch

from model.presets import NAMED_CONFIGS
from utils.cli.eval_options import EvalArgs, parse_eval
from utils.cli.infer_options import parse_infer
from utils.cli.train_options import PRESETS, TrainArgs, parse_train
from utils.runtime.errors import UserError
from utils.runtime.precision import inference_dtype

# Training


def test_native_is_the_default() -> None:
    assert parse_train([]) == TrainArgs()
    assert (TrainArgs().config, TrainArgs().lr, TrainArgs().beta1, TrainArgs().beta2) == ("native", 3e-4, 0.9, 0.95)
    assert (TrainArgs().clip_norm, TrainArgs().lora_targets) == (1.0, ["q_proj", "v_proj"])


def test_presets_are_of_known_configurations_and_options() -> None:
    assert PRESETS.keys() <= NAMED_CONFIGS.keys()
    known = {field.name for field in fields(TrainArgs)}
    for preset in PRESETS.values():
        assert preset.keys() <= known


def test_a_configuration_brings_its_defaults_and_an_option_beats_them() -> None:
    args = parse_train(["--epochs", "3", "--config", "mini", "--zero-stage", "2"])
    expected = asdict(TrainArgs()) | PRESETS["mini"] | {"config": "mini", "epochs": 3, "zero_stage": 2}
    assert asdict(args) == expected
    assert args.from_scratch and args.data == "data/DRSeg-mini"


def test_lists_flags_and_optional_numbers() -> None:
    args = parse_train(
        ["--override", "mask_size=96", "image_grid=8", "--train-parts", "clip", "--steps-per-epoch", "7"]
        + ["--skip-bad-records", "--gradient-checkpointing", "false", "--lora-targets", "q_proj"]
    )
    assert args.override == ["mask_size=96", "image_grid=8"] and args.train_parts == ["clip"]
    assert args.lora_targets == ["q_proj"] and args.steps_per_epoch == 7
    assert args.skip_bad_records and not args.gradient_checkpointing


def test_lists_are_not_shared_between_runs() -> None:
    parse_train([]).override.append("x=1")
    assert parse_train([]).override == []


IMPOSSIBLE = [
    (["--config", "huge"], "unknown configuration 'huge'; known are release, native, mini"),
    (["--batch-size", "0"], "--batch-size is 0; it must be at least 1"),
    (["--batch-size", "-2"], "--batch-size is -2; it must be at least 1"),
    (["--eval-batch-size", "0"], "--eval-batch-size is 0"),
    (["--grad-accumulation", "0"], "--grad-accumulation is 0"),
    (["--epochs", "0"], "--epochs is 0"),
    (["--steps-per-epoch", "0"], "--steps-per-epoch is 0"),
    (["--log-every", "0"], "--log-every is 0"),
    (["--validate-every", "0"], "--validate-every is 0"),
    (["--workers", "-1"], "--workers is -1; it must be at least 0"),
    (["--warmup-steps", "-1"], "--warmup-steps is -1"),
    (["--lora-rank", "-1"], "--lora-rank is -1"),
    (["--lr", "-1"], "--lr is -1"),
    (["--lr", "nan"], "--lr is nan"),
    (["--weight-decay", "-0.1"], "--weight-decay is -0.1"),
    (["--clip-norm", "-1"], "--clip-norm is -1"),
    (["--dice-weight", "-1"], "--dice-weight is -1"),
    (["--precision", "fp8"], "--precision is 'fp8'; known are fp32, bf16, fp16, mixed"),
    (["--offload", "disk"], "--offload is 'disk'; known are none, optimizer, all"),
    (["--zero-stage", "4"], "--zero-stage is 4; ZeRO has stages 0, 1, 2 and 3"),
    (["--zero-stage", "-1"], "--zero-stage is -1"),
    (["--offload", "all"], "--offload all needs --zero-stage 3, which alone shards parameters; it is 2"),
    (["--offload", "optimizer", "--zero-stage", "0"], "--offload optimizer needs --zero-stage 1, 2 or 3; it is 0"),
]


@pytest.mark.parametrize(("argv", "message"), IMPOSSIBLE, ids=[" ".join(argv) for argv, _ in IMPOSSIBLE])
def test_what_cannot_be_is_refused_with_its_value(argv: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_train(argv)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_offload_that_can_be(stage: int) -> None:
    assert parse_train(["--offload", "optimizer", "--zero-stage", str(stage)]).zero_stage == stage
    assert parse_train(["--offload", "all", "--zero-stage", "3"]).offload == "all"


@pytest.mark.parametrize(
    ("argv", "message"),
    [(["--batchsize", "2"], "--batchsize"), (["--batch-size", "many"], "invalid int value: 'many'"), (["x"], "x")],
)
def test_unknown_and_malformed_options_end_with_status_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for parse in (parse_train, parse_eval):
        with pytest.raises(SystemExit) as left:
            parse(argv)
        assert left.value.code == 2 and message in capsys.readouterr().err


def test_help_shows_the_defaults_of_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, folder in ((["--help"], "data/DRSeg)"), (["--config", "mini", "-h"], "data/DRSeg-mini)")):
        with pytest.raises(SystemExit) as left:
            parse_train(argv)
        said = capsys.readouterr().out
        assert left.value.code == 0 and folder in said
        assert all(f"--{field.name.replace('_', '-')}" in said for field in fields(TrainArgs))


# Evaluation and inference


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


def test_precision_of_inference() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda:0")
    assert inference_dtype("auto", cpu) == torch.float32
    assert inference_dtype("auto", gpu) == torch.bfloat16
    assert [inference_dtype(name, gpu) for name in ("fp32", "bf16", "fp16")] == [
        torch.float32,
        torch.bfloat16,
        torch.float16,
    ]
    with pytest.raises(UserError, match="--precision is 'fp8'; known are"):
        inference_dtype("fp8", cpu)


@pytest.mark.parametrize("parse", [parse_train, parse_eval])
def test_options_are_named_in_full(parse: Callable, capsys: pytest.CaptureFixture) -> None:
    """train.sh looks for --run-dir, --data and --polygons among the arguments too, and would miss a part of one."""
    with pytest.raises(SystemExit, match="2"):
        parse(["--poly", "first"])
    assert "--poly" in capsys.readouterr().err
