"""Predictions for a split: fixed forward passes, distributed over the processes; a pass encodes each of its pictures
once for all that is asked about it.

Which records a pass holds depends on the split alone, and nothing is padded with duplicates. The last digits of a
matrix product depend on its shape, so the answers are the same on any number of processes, however many are written at
once, and wherever an evaluation was stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from model.answering import Answer, write_answers
from model.inputs.batch import Batch
from model.inputs.images import Geometry
from model.language.tokens import PixTokenizer
from model.pixdlm import ImageFeatures, PixDLMForCausalLM
from model.quantization import MIXES_ROWS
from utils.datasets.base import Sample, image_groups
from utils.datasets.loading.parcel import Packing
from utils.evaluation.collate import EvaluationBatch, EvaluationCollator, with_pixels
from utils.evaluation.finish import Finisher
from utils.evaluation.predictions import Record
from utils.evaluation.protocols import Protocol, answer_batch
from utils.runtime.distributed import rank, world_size
from utils.runtime.helpers import start_helper
from utils.runtime.precision import full_precision

Asked = tuple[Sample, str, str, Geometry]  # sample, control, what is asked, of its picture


@dataclass(frozen=True)
class Loading:
    """How a split is gone through.

    Args:
        pass_size: records of a forward pass at most; those of one picture stay together as far as they fit.
        batch_size: answers that are written at once.
        workers: processes that decode pictures, and as many that finish masks; on a CPU one does.
        dtype: of the pixels; None leaves them float32.
        title: of the progress bar.
    """

    pass_size: int = 8
    batch_size: int = 16
    workers: int = 0
    dtype: torch.dtype | None = None
    title: str = "evaluating"


def fixed_passes(samples: Sequence[Sample], size: int) -> list[list[int]]:
    """Positions in passes of at most `size`; records of one picture stay together as far as they fit."""
    batches: list[list[int]] = [[]]
    for group in image_groups(samples):
        for start in range(0, len(group), size):
            part = group[start : start + size]
            if batches[-1] and len(batches[-1]) + len(part) > size:
                batches.append([])
            batches[-1].extend(part)
    return batches


def batched(passes: Sequence[list[Sample]], records: int) -> list[list[int]]:
    """Positions of consecutive passes in batches of at most so many records, and at least one pass."""
    batches: list[list[int]] = []
    held = 0
    for i, one in enumerate(passes):
        if not batches or held + len(one) > records:
            batches.append([])
            held = 0
        batches[-1].append(i)
        held += len(one)
    return batches


@torch.no_grad()  # not inference_mode: ZeRO-3 parameters gathered in it could not train afterwards
def predict(
    model: PixDLMForCausalLM,
    tokenizer: PixTokenizer,
    samples: Sequence[Sample],
    protocol: Protocol,
    loading: Loading,
    write: Callable[[list[Record]], None],
    done: Sequence[Record] = (),
    run: Callable[[Batch], Any] | None = None,
) -> None:
    """Answer every question of a split, this process's share of the passes.

    Args:
        model: in evaluation mode; its device is used.
        tokenizer: of the model.
        samples: the split.
        protocol: how the model is asked.
        loading: batch size, workers.
        write: called with the records of a batch once they are finished, batch after batch.
        done: records that are there already; passes of such alone are left out.
        run: called instead of the model for teacher-forced passes (DeepSpeed's engine, where it shards).

    Raises:
        UserError: a picture cannot be decoded.
    """
    there = {(one["control"], one["id"]) for one in done}
    passes = [
        [samples[i] for i in of_pass]
        for of_pass in fixed_passes(samples, loading.pass_size)
        if any((control, samples[i].key) not in there for i in of_pass for control in protocol.controls)
    ]
    # What is sampled depends on what is sampled beside it, as all answers of some quantised models do; so that is the
    # pass, whatever the batch size and whichever passes are left.
    joined = protocol.writes and not protocol.decoding.temperature and model.load_in not in MIXES_ROWS
    batches = batched(passes, loading.batch_size if joined else 1)
    at_once = loading.batch_size if joined else loading.pass_size
    mine = batches[rank() :: world_size()]
    # Every forward pass gathers shards from all ranks, so all run the same number; dummy batches are not scored.
    dummies = batches[:1] * (-(-len(batches) // world_size()) - len(mine) if run else 0)
    workers = min(loading.workers, 1) if model.device.type == "cpu" else loading.workers
    finisher = Finisher(model.config, workers)
    try:
        loader = DataLoader(
            passes,
            batch_sampler=mine + dummies,
            collate_fn=Packing(EvaluationCollator(model.config, tokenizer, protocol, samples, at_once)),
            num_workers=loading.workers,
            worker_init_fn=start_helper,
        )
        bar = tqdm(loader, desc=loading.title, unit="batch", disable=rank() != 0, leave=False)
        with full_precision():
            for i, parcel in enumerate(bar):
                asked, answers = answers_of(model, tokenizer, protocol, parcel.open(), loading.dtype, run)
                for records in finisher.add(asked, answers) if i < len(mine) else ():
                    write(records)
        for records in finisher.drain():
            write(records)
    finally:
        finisher.close()


def answers_of(
    model: PixDLMForCausalLM,
    tokenizer: PixTokenizer,
    protocol: Protocol,
    batch: EvaluationBatch,
    dtype: torch.dtype | None,
    run: Callable[[Batch], Any] | None,
) -> tuple[list[Asked], list[Answer]]:
    """What is asked in a batch under every control, and the answers."""
    features = [None if run else model.encode_images(one.pictures.to(model.device, dtype)) for one in batch.passes]
    asked, answers = [], []
    for control in protocol.controls:
        seen = [None if run else one.seen(each, control) for one, each in zip(batch.passes, features, strict=True)]
        written = iter(())
        if protocol.writes:
            written = iter(write_together(model, tokenizer, protocol, batch, control, seen))
        for one, each in zip(batch.passes, seen, strict=True):
            prompts = one.prompts[control]
            if run is not None:
                prompts = with_pixels(prompts, one.pictures.to("cpu", dtype))
            own = list(islice(written, len(prompts))) if protocol.writes else None
            answers += answer_batch(model, tokenizer, protocol, prompts, one.groups, each, own, run)
            index = prompts.image_index.tolist()
            rows = zip(one.samples, one.questions[control], index, strict=True)
            asked += [(sample, control, question, prompts.geometries[picture]) for sample, question, picture in rows]
    return asked, answers


def write_together(
    model: PixDLMForCausalLM,
    tokenizer: PixTokenizer,
    protocol: Protocol,
    batch: EvaluationBatch,
    control: str,
    seen: list[ImageFeatures],
) -> list[list[int]]:
    """What the model writes to every question of a batch's passes, which see these features."""
    written, features = [], ImageFeatures.joined(seen)
    first = batch.passes[0].samples[0].index
    for prompts in batch.writing[control]:
        if protocol.decoding.temperature:  # by the records, so that neither processes nor what was done before matter
            torch.manual_seed(protocol.seed * 1_000_003 + first + len(written))
        written += write_answers(model, tokenizer, prompts, features, protocol.decoding)
    return written
