"""A training run: data, model, engine and loop from the options."""

from __future__ import annotations

import json
import logging
import random
from dataclasses import asdict, replace
from datetime import timedelta
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from model.processor import PixDLMProcessor
from utils.cli.train_options import TrainArgs
from utils.datasets.base import Sample
from utils.datasets.loading.collate import Collator
from utils.datasets.loading.flips import FlippedSamples, FlipSampler, flip_sample
from utils.datasets.loading.mixture import MixtureSampler, joined, log_mixture
from utils.datasets.loading.sampler import TrainSampler, infinite_batches, split_fingerprint
from utils.datasets.loading.word_dropout import WordDropoutSampler, WordDropoutSamples
from utils.datasets.loading.workers import dead_worker_as_user_error
from utils.datasets.questions import check_questions
from utils.datasets.sources import LoadedSource, Source, read_sources
from utils.runtime.distributed import rank, world_size
from utils.runtime.errors import UserError
from utils.runtime.helpers import ignore_sigterm_in_worker
from utils.runtime.paths import has_content
from utils.runtime.precision import DTYPES
from utils.training.engine import check_precision, engine_config, start_engine
from utils.training.loop import Run
from utils.training.recipe import derived_options, resolve
from utils.training.resume import RECORDS, STATE, RunStates, begun_with
from utils.training.setup import build_training_model, check_weight_files, enable_gradient_checkpointing, read_config
from utils.training.zero3 import build_sharded

log = logging.getLogger(__name__)


def train(args: TrainArgs, run_dir: Path, device: torch.device) -> None:
    """Load the data and train, unless the run has ended already.

    Raises:
        UserError: data, weights or options do not fit, or the run fails in a way that the user can fix.
        Stopped: SIGTERM came; a state has been saved.
    """
    seed_everything(args.seed)
    check_weight_files(args)
    training, validation = load_splits(args)
    samples = [sample for part in training for sample in part.samples]
    derived = derived_options(args)
    begun = {} if args.restart else begun_with(run_dir / STATE)
    args = resolve(args, len(samples), world_size(), begun)
    states = RunStates(run_dir, asdict(args) | {RECORDS: split_fingerprint(samples)}, args.keep, derived)
    states.check_shared()
    with states.locked():
        if args.restart:
            states.clear()
        check_unclaimed(run_dir, states, args.restart)
        if states.finished():
            log.info("%s has ended already, nothing is left to train; --restart trains it anew", run_dir)
            return
        train_on(training, validation, args, states, run_dir, device)


def check_unclaimed(run_dir: Path, states: RunStates, restart: bool) -> None:
    """Check that a run that begins here replaces no weights.

    Raises:
        UserError: there are some, of a run whose states are gone, and --restart was not given.
    """
    weights = [run_dir / name for name in ("best", "last") if has_content(run_dir / name)]
    if weights and not restart and not states.begun():
        raise UserError(
            f"{weights[0]}: holds weights already, and {states.folder} no state of their run to resume; name another "
            "--run-dir, or pass --restart to replace them"
        )


def load_splits(args: TrainArgs) -> tuple[list[LoadedSource], list[LoadedSource]]:
    """What is trained on and what is validated on, all of it checked that can be without the weights.

    Raises:
        UserError: a record cannot be used, unless bad ones are skipped, or the tokenizer is not there.
    """
    reading = args.polygons, args.skip_bad_records, args.orientation
    sources, validation = sources_of(args)
    loaded = [[(source, source.load(*reading)) for source in of_both] for of_both in (sources, validation)]
    config, tokenizer = read_config(args)
    cutting, whole = (PixDLMProcessor(config, tokenizer, cut) for cut in (True, False))
    skip, said = args.skip_bad_records, config.answer_format
    variants = mirrored if args.mirror else None
    return (
        [LoadedSource(one, check_questions(samples, cutting, skip, variants, said)) for one, samples in loaded[0]],
        [LoadedSource(one, check_questions(samples, whole, skip, answer_format=said)) for one, samples in loaded[1]],
    )


def sources_of(args: TrainArgs) -> tuple[list[Source], list[Source]]:
    """What the options name to train on and to validate on.

    Raises:
        UserError: they name no such data sets.
    """
    if not args.train:
        one = Source(args.dataset, args.dataset, Path(args.data), "train")
        return [one], [replace(one, split="val")]
    sources = read_sources("--train", args.train, args.data, "train")
    if args.validate:
        return sources, read_sources("--validate", args.validate, args.data, "val")
    without = next((source for source in sources if "val" not in source.spec.splits), None)
    if without:
        raise UserError(
            f"--train {args.train}: {without.dataset} has no split val; name what is validated on, --validate NAME or "
            f"NAME@SPLIT ({', '.join(without.spec.splits)})"
        )
    return sources, list(dict.fromkeys(replace(one, split="val", share=1.0) for one in sources))


def mirrored(sample: Sample) -> list[Sample]:
    """A sample however its picture is flipped: its words may be longer."""
    return [flip_sample(sample, turn) for turn in product((False, True), repeat=2)]


def train_on(
    training: list[LoadedSource],
    validation: list[LoadedSource],
    args: TrainArgs,
    states: RunStates,
    run_dir: Path,
    device: torch.device,
) -> None:
    """Build model, engine and loader, and run the loop, resumed from the newest state if there is one."""
    found = states.newest()
    dtype, build = DTYPES[args.precision], partial(build_training_model, args)
    check_precision(dtype)
    model, tokenizer, trained = build_sharded(build, dtype, engine_config(args)) if args.zero_stage == 3 else build()
    if args.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    samples, sampler = training_order(training, args)
    steps = args.steps_per_epoch
    log_summary(args, model.config, samples, validation, trained, steps)
    torch.manual_seed(args.seed + rank())  # or every rank would draw the same dropout masks
    model.cast(dtype).to(device)
    if model.use_flash_attention():
        log.info("the language model uses flash-attn")
    engine, schedule = start_engine(model, args, steps * args.epochs, states.decay_by_name)
    collate = Collator(model.config, tokenizer, True, True, args.mask_side, model.config.answer_format)
    loader = training_loader(samples, sampler, args, collate, device)
    run = Run(args, engine, schedule, tokenizer, run_dir, steps, states)
    if found:
        run.resume(found)
        sampler.skip_to(run.progress.drawn)
    try:
        with run.watchdog.watching(), dead_worker_as_user_error():
            run.fit(infinite_batches(loader, sampler), validation)
    finally:
        run.close()


def training_order(training: list[LoadedSource], args: TrainArgs) -> tuple[list[Sample], TrainSampler]:
    """The training samples, and the sampler that draws this process's batches of them."""
    share = args.batch_size, args.grad_accumulation, args.seed, rank(), world_size()
    if len(training) == 1:
        return training[0].samples, TrainSampler(training[0].samples, *share)
    samples = joined([part.samples for part in training])
    sources, sizes = [part.source for part in training], [len(part.samples) for part in training]
    shares = [source.share for source in sources]
    sampler = MixtureSampler(samples, sizes, shares, *share, one_source_batches=args.one_source_batches)
    for source, drawn in zip(sources, sampler.quotas, strict=True):
        if not drawn:
            raise UserError(
                f"--train {args.train}: the share of {source.name} is so small that an epoch of {len(samples)} records "
                "has none of it; raise it, or leave it out"
            )
    log_mixture(sources, sizes, sampler.quotas)
    return samples, sampler


def training_loader(
    samples: list[Sample], sampler: TrainSampler, args: TrainArgs, collate: Collator, device: torch.device
) -> DataLoader:
    """The DataLoader of training, with flips where --mirror is set, and words left out as --words-dropout says."""
    drawn, batches = (FlippedSamples(samples), FlipSampler(sampler)) if args.mirror else (samples, sampler)
    if args.words_dropout:
        drawn, batches = WordDropoutSamples(drawn), WordDropoutSampler(batches, sampler, args.words_dropout)
    return DataLoader(
        drawn,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
        worker_init_fn=ignore_sigterm_in_worker,
        generator=torch.Generator().manual_seed(args.seed),  # else worker seeds would be drawn from dropout's generator
        pin_memory=device.type == "cuda",
    )


def log_summary(
    args: TrainArgs, config: Any, samples: list, validation: list[LoadedSource], trained: dict, steps: int
) -> None:
    """Log options, architecture, data, and trained parameters."""
    log.info("options %s", json.dumps(asdict(args)))
    log.info("architecture %s", json.dumps(config.to_diff_dict(), default=str))
    validated = sum(len(part.samples) for part in validation)
    log.info("%d training and %d validation records from %s", len(samples), validated, args.data)
    parts = ", ".join(f"{part} {count:,}" for part, count in trained.items())
    log.info("trained parameters: %s; together %s", parts, f"{sum(trained.values()):,}")
    records = args.batch_size * args.grad_accumulation * world_size()
    processes = f"{world_size()} process{'es' * (world_size() > 1)}"
    log.info("%d epochs of %d steps, %d records a step in %s", args.epochs, steps, records, processes)
    log.info("%d steps in all, %d of them warm-up", steps * args.epochs, args.warmup_steps)


def process_group_timeout(args: TrainArgs) -> timedelta:
    """Timeout of collectives: longer than the watchdog's, which names the hanging process."""
    return timedelta(minutes=args.timeout_minutes + 5) if args.timeout_minutes else timedelta(days=30)


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's random generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
