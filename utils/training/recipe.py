"""How long a run is: batches, steps and warm-up, from the options, the data and the number of processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from utils.cli.train_options import TrainArgs
from utils.runtime.errors import UserError

PUBLISHED_BATCH = 2
WARMUP_STEPS = 100  # as published, of 2,000 steps on 8 GPUs
WARMUP_SHARE = 10  # but at most one in so many steps


def derived_options(args: TrainArgs) -> list[str]:
    """The options that nobody named and that follow from the number of records and processes."""
    return [name for name in ("steps_per_epoch", "warmup_steps") if getattr(args, name) is None]


def resolve(
    args: TrainArgs, records: int, processes: int, begun: Mapping[str, int | None] = MappingProxyType({})
) -> TrainArgs:
    """The options with batch size, steps an epoch and warm-up as numbers.

    An epoch has `steps_per_epoch` steps; else as many as `samples_per_epoch` records fill, so that a run is as long
    on any number of processes; else one pass over the data.

    Args:
        args: of train.py.
        records: of the training split.
        processes: that train together.
        begun: derived options that the run began with (`utils.training.resume.begun_with`). They stay, so that a
            record that was taken out shortens neither epochs nor schedule. Epochs of None were single passes.

    Raises:
        UserError: the records fill no step, the global batch cannot be divided, or the warm-up is the whole run.
    """
    kept = {name: begun[name] for name in derived_options(args) if name in begun}
    if kept.get("steps_per_epoch", 0) is None:
        args = replace(args, samples_per_epoch=None)
    args = replace(args, **kept)
    batch = batch_size(args, processes)
    step = batch * processes * args.grad_accumulation
    if records < step:
        raise UserError(
            f"{records} training records fill no step of {batch} records x {processes} processes x "
            f"{args.grad_accumulation} micro-steps; lower --batch-size or --grad-accumulation"
        )
    steps = args.steps_per_epoch or max(1, (args.samples_per_epoch or records) // step)
    total = steps * args.epochs
    warmup = min(WARMUP_STEPS, total // WARMUP_SHARE) if args.warmup_steps is None else args.warmup_steps
    if warmup >= total:
        raise UserError(
            f"--warmup-steps is {warmup}, but the run has {total} steps and would never reach its rate; lower it, or "
            "leave it out for a tenth of the steps"
        )
    return replace(args, batch_size=batch, steps_per_epoch=steps, warmup_steps=warmup)


def batch_size(args: TrainArgs, processes: int) -> int:
    """Records a process and micro-step.

    Raises:
        UserError: the global batch cannot be divided by processes and micro-steps.
    """
    if args.global_batch is None:
        return args.batch_size or PUBLISHED_BATCH
    size, rest = divmod(args.global_batch, processes * args.grad_accumulation)
    if rest or not size:
        raise UserError(
            f"--global-batch {args.global_batch} cannot be divided by {processes} processes x "
            f"{args.grad_accumulation} micro-steps; use another number of processes (NPROC), or name --batch-size"
        )
    return size
