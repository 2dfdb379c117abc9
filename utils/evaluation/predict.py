"""Forced evaluation of a split: batches formed once, shared out among the processes, gathered exactly.

A batch's composition does not depend on the number of processes, nothing is padded with duplicates,
and only integer pixel counts are summed, so the numbers are the same on one process and on many.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from model.inputs.images import frame_logits
from model.language.tokens import PixTokenizer
from model.pixdlm import PixDLMForCausalLM
from utils.datasets.base import Sample, image_groups
from utils.datasets.loading.collate import Batch, Collator
from utils.evaluation.metrics import MaskScore, mask_counts
from utils.runtime.distributed import gather_lists, rank, world
from utils.runtime.errors import UserError
from utils.training.watchdog import outlive_sigterm


@dataclass(frozen=True)
class Prediction:
    """One predicted mask and how it scores.

    Args:
        score: against its target.
        confidence: mean probability over the foreground, 0 where there is none.
        rle: COCO run lengths of the mask, `counts` as text.
        text: the forced answer.
    """

    score: MaskScore
    confidence: float
    rle: dict[str, Any]
    text: str


def fixed_batches(samples: list[Sample], size: int) -> list[list[int]]:
    """Record indices in batches of about `size`; records of one picture are never parted."""
    batches: list[list[int]] = [[]]
    for group in image_groups(samples):
        if batches[-1] and len(batches[-1]) + len(group) > size:
            batches.append([])
        batches[-1].extend(group)
    return batches


def shuffle_questions(samples: list[Sample], seed: int) -> list[Sample]:
    """The control: every record gets another record's question; pictures and targets stay.

    A question is exchanged for one with another text wherever the split allows it. What is left of
    the signal is what a model knows without understanding the question.
    """
    generator = random.Random(seed)
    order = list(range(len(samples)))
    generator.shuffle(order)
    for i in range(len(order)):
        if samples[order[i]].question != samples[i].question:
            continue
        for j in generator.sample(range(len(order)), len(order)):
            kept = samples[order[j]].question != samples[i].question
            if kept and samples[order[i]].question != samples[j].question:
                order[i], order[j] = order[j], order[i]
                break
    return [replace(sample, question=samples[j].question) for sample, j in zip(samples, order, strict=True)]


def check_other_pictures(samples: list[Sample], batch_size: int) -> None:
    """Whether every batch has another picture to show, which `swapped_image_tokens` needs.

    Raises:
        UserError: one has a single picture; the smallest batch size at which none has is named.
    """

    def fits(size: int) -> bool:
        return all(len({samples[i].image_path for i in batch}) > 1 for batch in fixed_batches(samples, size))

    if not fits(batch_size):
        size = next((size for size in range(batch_size, len(samples) + 1) if fits(size)), None)
        cure = f"use --batch-size {size}" if size else "the split has no other"
        raise UserError(f"--swap-image-tokens: at --batch-size {batch_size} a batch has one picture only; {cure}")


@contextlib.contextmanager
def swapped_image_tokens(model: PixDLMForCausalLM) -> Iterator[None]:
    """The other control: the language model is shown the picture before in the batch, the mask decoder its own.

    A model that scores the same under it answers by the question's words alone.
    """
    hook = model.projector.register_forward_hook(lambda _module, _inputs, tokens: tokens.roll(1, dims=0))
    try:
        yield
    finally:
        hook.remove()


def confidence(logits: Tensor) -> float:
    """Published mask score: the mean probability of the foreground, float[H, W] -> 0 to 1; 0 where empty."""
    foreground = logits > 0
    return float((logits.sigmoid() * foreground).sum() / foreground.sum().clamp(min=1))


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """bool or uint8[H, W] -> COCO RLE whose counts are text, as JSON needs them."""
    rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}


@torch.no_grad()  # not inference_mode: ZeRO-3's shards that were gathered in it could not train on
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
    """Predict every target of a split with the answer forced.

    Args:
        model: in evaluation mode; its device is used.
        tokenizer: of the model.
        samples: the split.
        batch_size: records a batch.
        workers: processes that decode pictures.
        dtype: of the pixels; None leaves them float32.
        title: of the progress bar.
        runner: what runs a forward pass instead of the model (DeepSpeed's engine while it shards).

    Returns:
        all predictions in the order of samples and targets on rank 0, None elsewhere
    """
    batches = fixed_batches(samples, batch_size)
    mine = batches[rank() :: world()]
    # Shards are gathered from every process at every forward pass, so all of them run as many; what
    # only keeps the others company is not scored.
    company = -(-len(batches) // world()) - len(mine) if runner else 0
    loader = DataLoader(
        samples,
        batch_sampler=mine + batches[:1] * company,
        collate_fn=Collator(model.config, tokenizer),
        num_workers=workers,
        worker_init_fn=outlive_sigterm,
    )
    own: list[Prediction] = []
    with full_precision():
        for i, batch in enumerate(tqdm(loader, desc=title, unit="batch", disable=rank() != 0, leave=False)):
            batch = batch.to(model.device, dtype)
            output = (runner or model)(batch)
            if i < len(mine):
                own.extend(score_batch(model, tokenizer, batch, output.mask_logits))
    gathered = gather_lists(own)
    return gathered and sorted(gathered, key=lambda one: (one.score.index, one.score.target))


@contextlib.contextmanager
def full_precision():
    """Keep PyTorch from trading digits for speed while numbers are made that will be compared."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def score_batch(
    model: PixDLMForCausalLM, tokenizer: PixTokenizer, batch: Batch, mask_logits: list[Tensor]
) -> list[Prediction]:
    """The predictions of one batch, in the frames' own geometry."""
    predictions = []
    for i, (sample, small, truth) in enumerate(zip(batch.samples, mask_logits, batch.masks, strict=True)):
        logits = frame_logits(small.float(), batch.geometries[int(batch.image_index[i])], model.config)
        ids = batch.input_ids[i][batch.labels[i] >= 0].tolist()
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
                reasoning_type=sample.reasoning_type,
                altitude=sample.altitude,
            )
            predictions.append(Prediction(score, confidence(one), encode_mask(mask), tokenizer.decode(ids)))
    return predictions
