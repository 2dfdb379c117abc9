"""Teacher-forced evaluation of a split: fixed batches, distributed over the processes, gathered on rank 0.

A batch's composition does not depend on the number of processes, nothing is padded with duplicates,
and only integer pixel counts are summed, so the numbers are the same on one process and on many.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from model.inputs.batch import Batch
from model.inputs.images import frame_logits
from model.language.tokens import PixTokenizer
from model.masks import confidence, encode_mask
from model.pixdlm import PixDLMForCausalLM
from utils.datasets.base import Sample, image_groups
from utils.datasets.loading.collate import Collator
from utils.datasets.loading.workers import ignore_sigterm_in_worker
from utils.evaluation.metrics import MaskScore, mask_counts
from utils.runtime.distributed import gather_lists, rank, world_size
from utils.runtime.errors import UserError
from utils.runtime.precision import full_precision


@dataclass(frozen=True)
class Prediction:
    """One predicted mask and how it scores.

    Args:
        score: against its target.
        confidence: mean probability over the foreground, 0 where there is none.
        rle: COCO run lengths of the mask, `counts` as text.
        text: the teacher-forced answer.
    """

    score: MaskScore
    confidence: float
    rle: dict[str, Any]
    text: str


def fixed_batches(samples: list[Sample], size: int) -> list[list[int]]:
    """Record indices in batches of at most `size`; records of one picture stay together as far as they fit."""
    batches: list[list[int]] = [[]]
    for group in image_groups(samples):
        for start in range(0, len(group), size):
            part = group[start : start + size]
            if batches[-1] and len(batches[-1]) + len(part) > size:
                batches.append([])
            batches[-1].extend(part)
    return batches


@torch.no_grad()  # not inference_mode: ZeRO-3 parameters gathered in it could not train afterwards
def evaluate(
    model: PixDLMForCausalLM,
    tokenizer: PixTokenizer,
    samples: list[Sample],
    batch_size: int,
    workers: int = 0,
    dtype: torch.dtype | None = None,
    title: str = "evaluating",
    runner: Callable[[Batch], Any] | None = None,
) -> list[Prediction] | None:
    """Predict every target of a split, teacher-forced.

    Args:
        model: in evaluation mode; its device is used.
        tokenizer: of the model.
        samples: the split.
        batch_size: records a batch.
        workers: processes that decode pictures.
        dtype: of the pixels; None leaves them float32.
        title: of the progress bar.
        runner: called instead of the model for a forward pass (DeepSpeed's engine, where it shards).

    Returns:
        all predictions in the order of samples and targets on rank 0, None elsewhere
    """
    batches = fixed_batches(samples, batch_size)
    mine = batches[rank() :: world_size()]
    # Every forward pass gathers shards from all ranks, so all run the same number; dummy batches are not scored.
    dummy_batches = -(-len(batches) // world_size()) - len(mine) if runner else 0
    loader = DataLoader(
        samples,
        batch_sampler=mine + batches[:1] * dummy_batches,
        # a model that has learnt words is asked as it was trained: the data set's stand in the prompts
        collate_fn=Collator(model.config, tokenizer, answer_format=model.config.answer_format),
        num_workers=workers,
        worker_init_fn=ignore_sigterm_in_worker,
    )
    own: list[Prediction] = []
    with full_precision():
        for i, batch in enumerate(tqdm(loader, desc=title, unit="batch", disable=rank() != 0, leave=False)):
            output = (runner or model)(batch.to(model.device, dtype))
            if i < len(mine):
                own.extend(score_batch(model, tokenizer, batch, output.mask_logits))
    gathered = gather_lists(own)
    return gathered and sorted(gathered, key=lambda one: (one.score.index, one.score.target))


def score_batch(
    model: PixDLMForCausalLM, tokenizer: PixTokenizer, batch: Batch, mask_logits: list[Tensor]
) -> list[Prediction]:
    """The predictions of one batch, in the frames' own geometry; the batch may be on the CPU."""
    predictions, positions = [], batch.token_positions(model.config)
    scored = zip(batch.samples, mask_logits, batch.masks, positions.pictures, positions.answers, strict=True)
    for sample, small, truth, picture, ids in scored:
        logits = frame_logits(small.float(), batch.geometries[picture], model.config)
        for k, (one, target) in enumerate(zip(logits, truth, strict=True)):
            mask, target = (one > 0).cpu().numpy(), target.cpu().numpy()
            intersection, union = mask_counts(mask, target)
            score = MaskScore(
                index=sample.index,
                target=k,
                intersection=intersection,
                union=union,
                area=int(np.count_nonzero(target == 1)),
                pixels=target.size,
                groups=sample.groups,
            )
            predictions.append(Prediction(score, confidence(one), encode_mask(mask), tokenizer.decode(ids)))
    return predictions


def check_finite(source: str, samples: list[Sample], predictions: list[Prediction]) -> None:
    """Refuse non-finite masks, which would pass for empty ones.

    Raises:
        UserError: naming the first such record; `source` is where the weights come from.
    """
    names = {sample.index: sample.record_id for sample in samples}
    broken = [names[one.score.index] for one in predictions if not math.isfinite(one.confidence)]
    if broken:
        raise UserError(
            f"{source}: {len(broken)} of {len(predictions)} masks are not finite, the first that of record "
            f"{broken[0]!r}; evaluate with --precision fp32, or train anew if that does not help"
        )
