"""utils.cli.train_options: the defaults that a configuration prefers, and what cannot be."""

from __future__ import annotations

from dataclasses import asdict, fields

import pytest

from model.presets import NAMED_CONFIGS
from utils.cli.train_options import PRESETS, TrainArgs, parse_train
from utils.runtime.errors import UserError


def test_native_is_the_default() -> None:
    assert asdict(parse_train([])) == asdict(TrainArgs()) | {"samples_per_epoch": 32_000}
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
    (
        ["--offload", "optimizer", "--zero-stage", "0", "--precision", "mixed"],
        "--offload optimizer needs --zero-stage 1, 2 or 3; it is 0",
    ),
]


@pytest.mark.parametrize(("argv", "message"), IMPOSSIBLE, ids=[" ".join(argv) for argv, _ in IMPOSSIBLE])
def test_what_cannot_be_is_refused_with_its_value(argv: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_train(argv)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_offload_that_can_be(stage: int) -> None:
    assert (
        parse_train(["--offload", "optimizer", "--precision", "mixed", "--zero-stage", str(stage)]).zero_stage == stage
    )
    assert parse_train(["--offload", "all", "--zero-stage", "3"]).offload == "all"


def test_help_shows_the_defaults_of_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, folder in ((["--help"], "data/DRSeg)"), (["--config", "mini", "-h"], "data/DRSeg-mini)")):
        with pytest.raises(SystemExit) as left:
            parse_train(argv)
        said = capsys.readouterr().out
        assert left.value.code == 0 and folder in said
        assert all(f"--{field.name.replace('_', '-')}" in said for field in fields(TrainArgs))
