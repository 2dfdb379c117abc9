"""Train PixDLM. `bash train.sh [release|native|mini]` runs this by DeepSpeed; `--help` lists the options.

A run writes under --run-dir: `last/` and `best/` (folders that eval.py --model takes), TensorBoard
files, `train.log`, and `config.json` inside each checkpoint.
"""

from __future__ import annotations

import json
import logging
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from model.pixdlm import PixDLMOutput
from utils.args import TrainArgs, as_dict, parse_train
from utils.checkpoint import save_model
from utils.collate import Batch, Collator
from utils.datasets import load_dataset
from utils.distributed import mean_over_processes, pick_device, process_group, rank, world
from utils.engine import DTYPES, check_precision, gathered_state, single_process_environment, start_engine
from utils.errors import UserError, run_main
from utils.evaluation import evaluate
from utils.hints import draw_hints, hint_share
from utils.launch import free_port
from utils.logs import peak_memory_gib, start_logging
from utils.metrics import breakdowns
from utils.mirror import MirroredSamples, MirrorSampler
from utils.report import results_folder, table
from utils.sampler import TrainSampler
from utils.start import check_files, loss_weights, recompute_layers, start
from utils.tokens import PixTokenizer

log = logging.getLogger("train")

LOSSES = ("loss", "ce_loss", "mask_bce_loss", "mask_dice_loss", "overlap_loss", "grounding_loss")


def main() -> None:
    args = parse_train()
    run_dir = results_folder(args.run_dir, "--run-dir")
    start_logging(run_dir / "train.log")
    single_process_environment(free_port())
    device = pick_device()
    with process_group(device):
        train(args, run_dir, device)


def train(args: TrainArgs, run_dir: Path, device: torch.device) -> None:
    """The whole run: data, model, engine, epochs."""
    seed_everything(args.seed)
    check_files(args)
    reading = {"name": args.dataset, "polygons": args.polygons, "skip_bad_records": args.skip_bad_records}
    samples = load_dataset(args.data, "train", **reading)
    validation = load_dataset(args.data, "val", **reading)
    check_precision(args.precision)
    model, tokenizer, trained = start(args)
    if args.gradient_checkpointing:
        recompute_layers(model)
    sampler = TrainSampler(samples, args.batch_size, args.grad_accumulation, args.seed, rank(), world())
    steps = args.steps_per_epoch or sampler.steps
    if not sampler.steps:
        raise UserError(
            f"{len(samples)} training records fill no step of {args.batch_size} records x {world()} processes x "
            f"{args.grad_accumulation} micro-steps; lower --batch-size or --grad-accumulation"
        )
    describe(args, model.config, samples, validation, trained, steps)
    model.cast(DTYPES[args.precision]).to(device)
    if model.use_flash_attention():
        log.info("the language model attends by flash-attn")
    engine, schedule = start_engine(model, args, total_steps=steps * args.epochs)
    loader = DataLoader(
        MirroredSamples(samples) if args.mirror else samples,
        batch_sampler=MirrorSampler(sampler) if args.mirror else sampler,
        collate_fn=Collator(model.config, tokenizer, cut=True, mask_side=args.mask_side),
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
        generator=torch.Generator().manual_seed(args.seed),  # or workers would draw from dropout's
        pin_memory=device.type == "cuda",
    )
    run = Run(args, engine, schedule, tokenizer, run_dir, steps)
    try:
        batches = endless(loader, sampler)
        for epoch in range(args.epochs):
            run.train_epoch(epoch, batches)
            if (epoch + 1) % args.validate_every == 0 or epoch + 1 == args.epochs:
                run.validate(epoch, validation)
    finally:
        run.close()


class Run:
    """The state of a run that outlives an epoch: engine, step, best score, writers."""

    def __init__(
        self, args: TrainArgs, engine: Any, schedule: Any, tokenizer: PixTokenizer, run_dir: Path, steps: int
    ) -> None:
        self.args, self.engine, self.schedule, self.tokenizer = args, engine, schedule, tokenizer
        self.run_dir, self.steps = run_dir, steps
        self.dtype = DTYPES[args.precision]
        self.weights = loss_weights(args)
        self.step, self.best = 0, -1.0
        self.chance = torch.Generator().manual_seed(args.seed)  # of the hints
        self.writer = SummaryWriter(str(run_dir), purge_step=0) if rank() == 0 else None
        self.started = time.perf_counter()

    def train_epoch(self, epoch: int, batches: Any) -> None:
        """`steps` optimiser steps; losses are summed on the device and read when they are logged."""
        self.engine.train()
        bar = tqdm(total=self.steps, desc=f"epoch {epoch + 1}/{self.args.epochs}", unit="step", disable=rank() != 0)
        sums = torch.zeros(len(LOSSES), device=self.engine.device)
        records, since = 0, time.perf_counter()
        for step in range(self.steps):
            rate = self.schedule.get_last_lr()[0]  # of this step; the engine moves the schedule on
            for _ in range(self.args.grad_accumulation):
                batch = next(batches).to(self.engine.device, self.dtype)
                share = hint_share(self.step, self.args.hint_share, self.args.hint_steps)
                output = self.engine(batch, self.weights, draw_hints(batch, share, self.chance))
                self.check_finite(output, batch)
                self.engine.backward(output.loss)
                self.engine.step()
                sums += torch.stack([value_of(output, name, sums) for name in LOSSES])
                records += len(batch) * world()
            self.step += 1
            bar.update()
            if (step + 1) % self.args.log_every == 0 or step + 1 == self.steps:
                micro = ((step % self.args.log_every) + 1) * self.args.grad_accumulation
                losses = mean_over_processes(sums / micro)
                self.log_step(losses, rate, records / (time.perf_counter() - since), bar)
                sums.zero_()
                records, since = 0, time.perf_counter()
        bar.close()

    def check_finite(self, output: PixDLMOutput, batch: Batch) -> None:
        """Stop before a loss that is no number reaches the weights, and name the batch.

        Raises:
            UserError: with every loss and the records of the batch.
        """
        if torch.isfinite(output.loss):
            return
        losses = {name: float(value) for name in LOSSES if (value := getattr(output, name)) is not None}
        records = ", ".join(f"{sample.record_id} ({sample.question!r})" for sample in batch.samples)
        raise UserError(f"the loss at step {self.step} is not finite: {losses}; the batch holds {records}")

    def log_step(self, losses: torch.Tensor, rate: float, speed: float, bar: tqdm) -> None:
        """Losses, learning rate, speed and memory to TensorBoard, the log and the bar."""
        values = dict(zip(LOSSES, losses.tolist(), strict=True))
        values["lr"] = rate
        values["samples_per_second"] = speed
        values["memory_gib"] = peak_memory_gib()
        if self.writer is None:
            return
        for name, value in values.items():
            self.writer.add_scalar(f"train/{name}", value, self.step)
        bar.set_postfix(loss=f"{values['loss']:.4f}")
        log.info("step %d  %s", self.step, "  ".join(f"{name} {value:.4g}" for name, value in values.items()))

    def validate(self, epoch: int, samples: list) -> None:
        """Score the validation split; write `last/`, and `best/` when gIoU is the best so far."""
        self.engine.eval()
        predictions = evaluate(
            self.engine.module,
            self.tokenizer,
            samples,
            self.args.eval_batch_size,
            self.args.workers,
            self.dtype,
            title=f"validation {epoch + 1}",
            runner=self.engine,
        )
        scores = breakdowns([one.score for one in predictions]) if predictions is not None else None
        state = gathered_state(self.engine)
        if scores is None or state is None:
            return
        giou, ciou = scores["overall"]["giou"], scores["overall"]["ciou"]
        log.info("validation after epoch %d:\n%s", epoch + 1, table(scores))
        self.writer.add_scalar("val/giou", giou, self.step)
        self.writer.add_scalar("val/ciou", ciou, self.step)
        record = {"epoch": epoch + 1, "step": self.step, "validation": scores, "settings": as_dict(self.args)}
        record["seconds"] = round(time.perf_counter() - self.started, 1)
        folders = ["last", "best"] if giou > self.best else ["last"]
        self.best = max(self.best, giou)
        for folder in folders:
            save_model(self.run_dir / folder, self.engine.module, self.tokenizer, state, record)

    def close(self) -> None:
        """Flush what TensorBoard still holds."""
        if self.writer is not None:
            self.writer.close()


def describe(args: TrainArgs, config: Any, samples: list, validation: list, trained: dict, steps: int) -> None:
    """What this run is: options, architecture, data, and what trains."""
    log.info("options %s", json.dumps(as_dict(args)))
    log.info("architecture %s", json.dumps(config.to_diff_dict(), default=str))
    log.info("%d training and %d validation records from %s", len(samples), len(validation), args.data)
    parts = ", ".join(f"{part} {count:,}" for part, count in trained.items())
    log.info("trained parameters: %s; together %s", parts, f"{sum(trained.values()):,}")
    records = args.batch_size * args.grad_accumulation * world()
    log.info("%d epochs of %d steps, %d records a step", args.epochs, steps, records)


def endless(loader: DataLoader, sampler: TrainSampler) -> Any:
    """Batches without end; the order changes with every pass over the data."""
    while True:
        yield from loader
        sampler.epoch += 1


def value_of(output: PixDLMOutput, name: str, like: torch.Tensor) -> torch.Tensor:
    """A loss as a scalar without gradient; zero where the run does not compute it."""
    value = getattr(output, name)
    return like.new_zeros(()) if value is None else value.detach().to(like.dtype)


def seed_everything(seed: int) -> None:
    """Every generator that training uses."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


if __name__ == "__main__":
    run_main(main)
