"""The training loop."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from model.checkpoints.save import link_model, save_model
from model.inputs.batch import Batch
from model.language.answers import SEG
from model.language.tokens import PixTokenizer
from model.pixdlm import PixDLMOutput
from utils.cli.train_options import TrainArgs
from utils.datasets.base import Sample
from utils.datasets.sources import LoadedSource, Source
from utils.evaluation.finish import check_finite
from utils.evaluation.metrics import breakdowns, metric_names
from utils.evaluation.predict import Loading, predict
from utils.evaluation.predictions import Record
from utils.evaluation.protocols import FORCED, GIVEN_REASONING, NO_REASONING, Protocol
from utils.evaluation.report.tables import table
from utils.evaluation.results import data_facts, hardware
from utils.evaluation.scoring import QUESTION, score_records
from utils.runtime.distributed import (
    any_rank,
    broadcast_from_rank0,
    gather_lists,
    mean_over_ranks,
    rank,
    world_size,
)
from utils.runtime.errors import UserError
from utils.runtime.files import append_line, write_errors_as_user_error
from utils.runtime.logs import peak_memory_gib
from utils.runtime.machine import code_version
from utils.runtime.precision import DTYPES
from utils.training.engine import gathered_state, gradient_norm_is_finite, weights_are_finite
from utils.training.preemption import Stopped, StopRequest
from utils.training.resume import Progress, RunStates
from utils.training.setup import loss_weights
from utils.training.watchdog import Watchdog

log = logging.getLogger(__name__)

LOSSES = ("loss", "ce_loss", "mask_bce_loss", "mask_dice_loss", "overlap_loss", "grounding_loss", "text_loss")
BAD_BATCHES = "bad_batches.jsonl"


class Run:
    """A training run: engine, progress, saved states and TensorBoard, and the loop over them."""

    def __init__(
        self,
        args: TrainArgs,
        engine: Any,
        schedule: Any,
        tokenizer: PixTokenizer,
        run_dir: Path,
        steps: int,
        states: RunStates,
    ) -> None:
        self.args, self.engine, self.schedule, self.tokenizer = args, engine, schedule, tokenizer
        self.run_dir, self.steps, self.states = run_dir, steps, states
        self.dtype = DTYPES[args.precision]
        self.weights = loss_weights(args)
        self.progress = Progress()
        self.sums = torch.zeros(len(LOSSES), device=engine.device)
        self.stop, self.watchdog = StopRequest(), Watchdog(args.timeout_minutes * 60)
        self.writer: SummaryWriter | None = None
        self.started = self.saved = time.perf_counter()
        self.past_seconds = 0.0

    def resume(self, folder: Path) -> None:
        """Load a state, to continue after its step."""
        self.progress = self.states.load(self.engine, folder)
        known = self.progress.sums  # fewer than LOSSES in a state that was written before a loss was added
        self.sums[: len(known)] += torch.tensor(known, device=self.sums.device)
        self.past_seconds = self.progress.seconds
        log.info("resumed: goes on after step %d, from %s", self.progress.step, folder)

    def fit(self, batches: Iterator[Batch], validation: list[LoadedSource]) -> None:
        """Train the remaining epochs, each with its validation and a saved state."""
        if rank() == 0:
            self.writer = SummaryWriter(str(self.run_dir), purge_step=self.progress.step + 1)
        for epoch in range(self.progress.epoch, self.args.epochs):
            self.train_epoch(epoch, batches)
            if (epoch + 1) % self.args.validate_every == 0 or epoch + 1 == self.args.epochs:
                self.save()  # validation may take longer than a cluster waits after SIGTERM
                self.validate(epoch, validation)
                self.log_costs()
            self.progress.epoch = epoch + 1
            if epoch + 1 < self.args.epochs:
                self.save()
        self.states.finish()

    def train_epoch(self, epoch: int, batches: Iterator[Batch]) -> None:
        """Train the remaining optimiser steps of an epoch, and save states in between.

        Raises:
            Stopped: SIGTERM came; a state has been written.
        """
        self.engine.train()
        end, done = (epoch + 1) * self.steps, self.progress.step - epoch * self.steps
        title = f"epoch {epoch + 1}/{self.args.epochs}"
        bar = tqdm(total=self.steps, initial=done, desc=title, unit="step", disable=rank() != 0)
        micro, since = 0, time.perf_counter()
        while self.progress.step < end:
            rate = self.schedule.get_last_lr()[0]  # of this step; the engine moves the schedule on
            before = self.progress.step
            stop, due = self.train_step(batches)
            micro += self.args.grad_accumulation
            bar.update(self.progress.step - before)
            logs = self.progress.step % self.steps % self.args.log_every == 0 or self.progress.step == end
            if logs and self.progress.step > before and self.progress.summed:
                records = micro * self.args.batch_size * world_size()
                self.log_losses(rate, records / (time.perf_counter() - since), bar)
                micro, since = 0, time.perf_counter()
            if stop or due:
                self.save()
            if stop:
                raise Stopped(
                    f"stopped by SIGTERM after step {self.progress.step}; the same command resumes from there"
                )
        bar.close()

    def train_step(self, batches: Iterator[Batch]) -> tuple[bool, bool]:
        """One optimiser step.

        The host waits for the device once, behind the last micro-step, so that a GPU always has work ahead. A loss
        that is not finite makes the step's gradients so, which DeepSpeed then leaves out.

        Returns:
            whether to stop, and whether a state is due, the same on every rank
        """
        taken, losses = [], []
        for _ in range(self.args.grad_accumulation):
            self.watchdog.heartbeat(f"step {self.progress.step + 1}")
            batch = next(batches).to(self.engine.device, self.dtype)
            self.progress.drawn += 1
            output = self.engine(batch, self.weights)
            self.engine.backward(spoilt_unless_finite(output.loss))
            self.engine.step()
            taken.append(batch.samples)
            losses.append(losses_of(output, self.sums))
        micro_steps = torch.stack(losses)
        finite = torch.isfinite(micro_steps[:, 0])
        *bad, stop, due = any_rank([*~finite, self.stop.received, self.state_is_due()], self.engine.device)
        applied = self.engine.was_step_applied()
        if not any(bad):
            self.sums += micro_steps.sum(0)
            self.progress.summed += self.args.grad_accumulation
            if not applied and self.args.precision == "fp16":
                return stop, False  # the loss scale is found by steps that overflow; they do not count
        self.progress.step += 1
        if any(bad):
            where = bad.index(True)
            values = dict(zip(LOSSES, micro_steps[where].tolist(), strict=True))
            own = not math.isfinite(values["loss"])
            self.skip_nonfinite_step("the loss", taken[where], f": {values}" if own else " in another process")
        elif not applied:
            self.skip_nonfinite_step("a gradient", sum(taken, []))
        elif not gradient_norm_is_finite(self.engine):
            raise UserError(
                f"a gradient at step {self.progress.step} is not finite, and DeepSpeed let it into the weights; the "
                f"step has {', '.join(record_names(sum(taken, [])))}. The same command resumes from the state before; "
                "install the DeepSpeed that requirements.txt asks for"
            )
        return stop, due

    def state_is_due(self) -> bool:
        """Whether a state is due after this step, by --save-steps or rank 0's clock."""
        every = self.args.save_steps
        if every and (self.progress.step + 1) % every == 0:
            return True
        limit = self.args.save_minutes * 60
        return rank() == 0 and limit > 0 and time.perf_counter() - self.saved >= limit

    def skip_nonfinite_step(self, what: str, samples: list[Sample], values: str = "") -> None:
        """Note in `bad_batches.jsonl` a step whose loss or gradient is not finite, and its records.

        Raises:
            UserError: there were more than --max-bad-steps; it names the records.
        """
        step = self.progress.step
        self.progress.bad_steps += 1
        what = f"{what} at step {step} is not finite{values}"
        own = record_names(samples)
        gathered = gather_lists(own)
        if gathered is not None:
            note = {"step": step, "what": what, "records": gathered}
            path = self.run_dir / BAD_BATCHES
            with write_errors_as_user_error(path):
                append_line(path, json.dumps(note, ensure_ascii=False))
        message = f"{what}; the batch holds {', '.join(gathered or own)}"
        if self.progress.bad_steps > self.args.max_bad_steps:
            raise UserError(f"{message}. --max-bad-steps {self.progress.bad_steps} would skip it")
        log.warning("skipped: %s", message)

    def save(self) -> None:
        """Write a state from which the same command goes on.

        Raises:
            UserError: weights are not finite, so that nothing could go on from them.
        """
        (broken,) = any_rank([~weights_are_finite(self.engine.module)], self.engine.device)
        if broken:
            raise UserError(
                f"the weights are not finite after step {self.progress.step}, so no state is written; earlier ones in "
                f"{self.states.folder} stay. Lower --lr or --clip-norm, or train in fp32 or mixed precision"
            )
        self.watchdog.heartbeat("writing a state")
        self.progress.seconds = self.seconds()
        self.progress.sums = self.sums.tolist()
        with self.timed("writing"):
            self.states.save(self.engine, self.progress)
        self.saved = time.perf_counter()
        self.watchdog.heartbeat(f"step {self.progress.step + 1}")

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Count the block's seconds as validation or writing."""
        began = time.perf_counter()
        yield
        self.progress.spent[what] += time.perf_counter() - began

    def log_costs(self) -> None:
        """Log what share of the run validation and writing took; a user may want them less often."""
        seconds = max(self.seconds(), 1e-9)
        validation, writing = (self.progress.spent[what] for what in ("validation", "writing"))
        log.info(
            "of %.0f s so far validation took %.1f %% and writing checkpoints and states %.1f %%; --validate-every and "
            "--save-minutes set how often",
            *(seconds, 100 * validation / seconds, 100 * writing / seconds),
        )

    def seconds(self) -> float:
        """Seconds that the run took so far, over all its starts."""
        return round(self.past_seconds + time.perf_counter() - self.started, 1)

    def log_losses(self, rate: float, speed: float, bar: tqdm) -> None:
        """Log mean losses since the last line, learning rate, speed and memory to TensorBoard, log and progress bar."""
        losses = mean_over_ranks(self.sums / self.progress.summed)
        self.sums.zero_()
        self.progress.summed = 0
        values = dict(zip(LOSSES, losses.tolist(), strict=True))
        values["lr"] = rate
        values["samples_per_second"] = speed
        values["memory_gib"] = peak_memory_gib()
        if self.writer is None:
            return
        step = self.progress.step
        for name, value in values.items():
            self.writer.add_scalar(f"train/{name}", value, step)
        bar.set_postfix(loss=f"{values['loss']:.4f}")
        log.info("step %d  %s", step, "  ".join(f"{name} {value:.4g}" for name, value in values.items()))

    def validate(self, epoch: int, validation: list[LoadedSource]) -> None:
        """Score the validation splits and save the weights."""
        self.engine.eval()
        scored = [self.validate_on(f"validation {epoch + 1}", part) for part in validation]
        with self.timed("writing"):
            state = gathered_state(self.engine)
            if state is not None:
                self.save_scored(epoch, [part.source for part in validation], scored, state)

    def validate_on(self, title: str, part: LoadedSource) -> tuple[dict[str, dict], dict[str, Any]]:
        """The scores of a validation split, and what they are of."""
        model, samples = self.engine.module, part.samples
        # what is learnt is put into the prompts, as in training; generated answers would have to be waited for
        learns_words = model.config.answer_format != SEG
        protocol = Protocol(FORCED, GIVEN_REASONING if learns_words else NO_REASONING)
        size = self.args.eval_batch_size
        loading = Loading(pass_size=size, workers=self.args.workers, dtype=self.dtype, title=title)
        records: list[Record] = []
        with self.timed("validation"):
            predict(model, self.tokenizer, samples, protocol, loading, records.extend, run=self.predict)
            gathered = gather_lists(records)
        scores = broadcast_from_rank0(partial(self.scores, part, gathered) if rank() == 0 else None)
        return scores, {
            "data": data_facts(part.source.dataset, part.source.split, samples),
            "protocol": protocol.described(),
            "code": code_version(),
            "hardware": hardware(model.device),
        }

    def scores(self, part: LoadedSource, records: list[Record]) -> dict[str, dict]:
        """The scores of `breakdowns`, for table and `training.json`.

        Raises:
            UserError: a mask is not finite.
        """
        check_finite(f"{self.run_dir}, step {self.progress.step}", records)
        spec = part.source.spec
        rules = spec.scoring(unit=QUESTION if self.engine.module.config.single_target else None)
        scored = score_records(part.samples, {one["id"]: one for one in records}, rules)
        return breakdowns([score for score, _, _ in scored], rules, spec.group_titles)

    def save_scored(
        self, epoch: int, sources: list[Source], scored: list[tuple[dict, dict]], state: dict[str, torch.Tensor]
    ) -> None:
        """Log scores; write `last/`, and `best/` when the mean over the validated sets of their first metric is the
        best so far."""
        step, single = self.progress.step, len(sources) == 1
        titles = [source.name if source.split == "val" else f"{source.name}@{source.split}" for source in sources]
        firsts = []
        for source, title, (scores, _) in zip(sources, titles, scored, strict=True):
            of = "" if single else f" on {title}"
            log.info("validation%s after epoch %d:\n%s", of, epoch + 1, table(scores, source.spec))
            counted = [name for name in metric_names(scores["overall"]) if scores["overall"][name] is not None]
            for name in counted:
                self.writer.add_scalar(f"val{'' if single else f'/{title}'}/{name}", scores["overall"][name], step)
            firsts.append(scores["overall"][counted[0]])
        score = math.fsum(firsts) / len(firsts)
        if not single:
            log.info("mean over the validated sets after epoch %d: %.4f", epoch + 1, score)
        validation, facts = (
            each[0] if single else dict(zip(titles, each, strict=True)) for each in zip(*scored, strict=True)
        )
        record = {"epoch": epoch + 1, "step": step, "validation": validation, "settings": asdict(self.args)}
        record |= {"validated": facts, "seconds": self.seconds()}
        last, best = self.run_dir / "last", self.run_dir / "best"
        with write_errors_as_user_error(last):
            save_model(last, self.engine.module, self.tokenizer, state, record)
        if score > self.progress.best:
            self.progress.best = score
            with write_errors_as_user_error(best):
                link_model(last, best)  # written once: 13.6 GiB at 7B

    def predict(self, batch: Batch) -> PixDLMOutput:
        """A forward pass of validation, through the engine."""
        self.watchdog.heartbeat("validation")
        return self.engine(batch)

    def close(self) -> None:
        """Close the TensorBoard writer, and let SIGTERM end the process again."""
        self.stop.restore_default()
        if self.writer is not None:
            self.writer.close()


def record_names(samples: list[Sample]) -> list[str]:
    """Id and question of each."""
    return [f"{sample.record_id} ({sample.question!r})" for sample in samples]


def losses_of(output: PixDLMOutput, like: torch.Tensor) -> torch.Tensor:
    """float[7], LOSSES of an output without gradient; zero where the run does not compute one."""
    values = [getattr(output, name) for name in LOSSES]
    return torch.stack([like.new_zeros(()) if one is None else one.detach().to(like.dtype) for one in values])


def spoilt_unless_finite(loss: torch.Tensor) -> torch.Tensor:
    """The loss; NaN with gradients that are NaN all through where it is not finite. Without waiting for the device."""
    return loss * torch.where(torch.isfinite(loss.detach()), 1.0, torch.nan)
