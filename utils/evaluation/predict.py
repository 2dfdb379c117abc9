"""Predictions for a split: fixed batches, distributed over the processes; each picture is encoded once for all that is
asked about it.

A batch's composition does not depend on the number of processes and nothing is padded with duplicates, so the answers
are the same on one process and on many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from model.inputs.batch import Batch
from model.language.tokens import PixTokenizer
from model.pixdlm import PixDLMForCausalLM
from utils.datasets.base import Sample, image_groups
from utils.datasets.loading.workers import ignore_sigterm_in_worker
from utils.evaluation.collate import EvaluationBatch, EvaluationCollator, with_pixels
from utils.evaluation.controls import SWAPPED_IMAGES
from utils.evaluation.finish import Finisher
from utils.evaluation.predictions import Record
from utils.evaluation.protocols import Protocol, answer_batch
from utils.runtime.distributed import rank, world_size
from utils.runtime.precision import full_precision


@dataclass(frozen=True)
class Loading:
    """How a split is gone through.

    Args:
        batch_size: records a batch.
        workers: processes that decode pictures, and as many that finish masks; on a CPU one does.
        dtype: of the pixels; None leaves them float32.
        title: of the progress bar.
    """

    batch_size: int = 8
    workers: int = 0
    dtype: torch.dtype | None = None
    title: str = "evaluating"


def fixed_batches(samples: Sequence[Sample], size: int) -> list[list[int]]:
    """Positions in batches of at most `size`; records of one picture stay together as far as they fit."""
    batches: list[list[int]] = [[]]
    for group in image_groups(samples):
        for start in range(0, len(group), size):
            part = group[start : start + size]
            if batches[-1] and len(batches[-1]) + len(part) > size:
                batches.append([])
            batches[-1].extend(part)
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
    """Answer every question of a split, this process's share of the batches.

    Args:
        model: in evaluation mode; its device is used.
        tokenizer: of the model.
        samples: the split.
        protocol: how the model is asked.
        loading: batch size, workers.
        write: called with the records of a batch once they are finished, batch after batch.
        done: records that are there already; batches of such alone are left out.
        run: called instead of the model for teacher-forced passes (DeepSpeed's engine, where it shards).

    Raises:
        UserError: a picture cannot be decoded.
    """
    there = {(one["control"], one["id"]) for one in done}
    batches = [
        batch
        for batch in fixed_batches(samples, loading.batch_size)
        if any((control, samples[i].key) not in there for i in batch for control in protocol.controls)
    ]
    mine = batches[rank() :: world_size()]
    # Every forward pass gathers shards from all ranks, so all run the same number; dummy batches are not scored.
    dummies = batches[:1] * (-(-len(batches) // world_size()) - len(mine) if run else 0)
    workers = min(loading.workers, 1) if model.device.type == "cpu" else loading.workers
    finisher = Finisher(model.config, workers)
    try:
        loader = DataLoader(
            samples,
            batch_sampler=mine + dummies,
            collate_fn=EvaluationCollator(model.config, tokenizer, protocol, samples),
            num_workers=loading.workers,
            worker_init_fn=ignore_sigterm_in_worker,
        )
        bar = tqdm(loader, desc=loading.title, unit="batch", disable=rank() != 0, leave=False)
        with full_precision():
            for i, batch in enumerate(bar):
                asked, answers = answers_of(model, tokenizer, protocol, batch, loading.dtype, run)
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
) -> tuple[list[tuple], list]:
    """What is asked in a batch under every control, and the answers: (sample, control, question, geometry) and Answer
    each."""
    features = None
    if run is None:
        features = model.encode_images(batch.pictures.to(model.device, dtype))
    asked, answers = [], []
    for control, prompts in batch.prompts.items():
        seen = features
        if control == SWAPPED_IMAGES:
            seen = replace(features, tokens=features.tokens[batch.swapped])
        if run is not None:
            prompts = with_pixels(prompts, batch.pictures.to("cpu", dtype))
        if protocol.decoding.temperature:  # by the records, so that neither processes nor what was done before matter
            torch.manual_seed(protocol.seed * 1_000_003 + batch.samples[0].index)
        answers += answer_batch(model, tokenizer, protocol, prompts, batch.targets, seen, run)
        index = prompts.image_index.tolist()
        rows = zip(batch.samples, batch.questions[control], index, strict=True)
        asked += [(sample, control, question, prompts.geometries[picture]) for sample, question, picture in rows]
    return asked, answers
