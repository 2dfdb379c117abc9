"""utils.training.recipe: as many samples on any number of processes, and a warm-up that leaves a run."""

from __future__ import annotations

import pytest

from utils.cli.train_options import TrainArgs, parse_train
from utils.runtime.errors import UserError
from utils.training.recipe import resolve

DRSEG = 2999


def length(args: TrainArgs, records: int, processes: int) -> tuple[int, int, int]:
    """Steps, samples and warm-up of a run."""
    found = resolve(args, records, processes)
    steps = found.steps_per_epoch * found.epochs
    return steps, steps * found.batch_size * found.grad_accumulation * processes, found.warmup_steps


@pytest.mark.parametrize("config", ["native", "release"])
@pytest.mark.parametrize(("gpus", "steps", "warmup"), [(1, 16_000, 100), (8, 2_000, 100), (64, 250, 25)])
def test_the_published_number_of_samples_on_any_number_of_gpus(config: str, gpus: int, steps: int, warmup: int) -> None:
    """200 steps an epoch, 10 epochs, 20 samples a step and GPU, on 8."""
    assert length(parse_train(["--config", config]), DRSEG, gpus) == (steps, 320_000, warmup)


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_mini_keeps_its_global_batch(processes: int) -> None:
    args = parse_train(["--config", "mini"])
    assert resolve(args, 2000, processes).batch_size * processes == 24
    assert length(args, 2000, processes) == (83 * 16, 83 * 16 * 24, 100)


def test_a_global_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(UserError, match="--global-batch 24 cannot be divided by 5 processes x 1 micro-steps; use"):
        resolve(parse_train(["--config", "mini"]), 2000, 5)
    assert resolve(parse_train(["--config", "mini", "--batch-size", "6"]), 2000, 5).batch_size == 6
    with pytest.raises(UserError, match="leave one of both out"):
        parse_train(["--config", "mini", "--batch-size", "6", "--global-batch", "6"])


def test_without_a_number_of_samples_an_epoch_is_a_pass() -> None:
    args = TrainArgs(batch_size=2, grad_accumulation=3)
    assert resolve(args, 6, 1).steps_per_epoch == 1
    assert resolve(args, 100, 2).steps_per_epoch == 8
    with pytest.raises(UserError, match="5 training records fill no step of 2 records x 1 processes x 3 micro-steps"):
        resolve(args, 5, 1)


def test_the_warm_up_leaves_a_run() -> None:
    args = TrainArgs(batch_size=1, grad_accumulation=1, steps_per_epoch=30, epochs=10)
    assert resolve(args, 9, 1).warmup_steps == 30  # a tenth
    args.warmup_steps = 299
    assert resolve(args, 9, 1).warmup_steps == 299
    args.warmup_steps = 300
    with pytest.raises(UserError, match="--warmup-steps is 300, but the run has 300 steps and would never reach"):
        resolve(args, 9, 1)


@pytest.mark.parametrize("stage", ["0", "1"])
def test_micro_steps_are_not_added_up_in_bfloat16(stage: str) -> None:
    given = ["--config", "mini", "--precision", "bf16", "--zero-stage", stage, "--grad-accumulation"]
    with pytest.raises(UserError, match="adds micro-steps up in bfloat16"):
        parse_train([*given, "2"])
    assert parse_train([*given, "1"]).grad_accumulation == 1


def test_a_run_keeps_the_length_that_it_began_with() -> None:
    args = parse_train(["--config", "native"])
    begun = {"steps_per_epoch": 7, "warmup_steps": 3}
    kept = resolve(args, 2999, 1, begun)
    assert (kept.steps_per_epoch, kept.warmup_steps) == (7, 3)
    named = resolve(parse_train(["--steps-per-epoch", "9"]), 2999, 1, begun)
    assert (named.steps_per_epoch, named.warmup_steps) == (9, 3)
    assert resolve(args, 2999, 1, {"steps_per_epoch": None}).steps_per_epoch == 2999 // 20  # a pass, as it was once
