"""utils.evaluation.predict: batches that do not depend on processes, and exact scores."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from model.inputs.batch import Batch
from model.inputs.images import network_mask
from model.language.tokens import SEG_TOKENS, PixTokenizer
from model.pixdlm import PixDLMForCausalLM
from utils.datasets.base import Sample
from utils.datasets.registry import load_dataset
from utils.evaluation import predict as evaluation
from utils.evaluation.predict import Prediction, evaluate, fixed_batches


def asked(*questions: str, pictures: list[int] | None = None) -> list[Sample]:
    return [
        Sample(Path(f"{(pictures or range(99))[i]}.jpg"), q, None, (), 9, 9, "drseg", str(i), i)
        for i, q in enumerate(questions)
    ]


# Batches


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_batches_are_no_larger_and_a_pictures_records_stay_together_as_far_as_they_fit(size: int) -> None:
    pictures = [0, 1, 1, 2, 0, 3, 3, 3, 3, 4]
    batches = fixed_batches(asked(*"abcdefghij", pictures=pictures), size)
    assert sorted(index for batch in batches for index in batch) == list(range(10))
    where = {
        picture: {i for i, batch in enumerate(batches) for index in batch if pictures[index] == picture}
        for picture in range(5)
    }
    records = Counter(pictures)
    assert all(len(found) == -(-records[picture] // size) for picture, found in where.items())
    assert all(0 < len(batch) <= size for batch in batches)
    for a, b in zip(batches, batches[1:], strict=False):  # nothing that would have fitted begins a batch
        first = sum(pictures[index] == pictures[b[0]] for index in b)
        assert len(a) + first > size


# Evaluation of a split


@pytest.fixture
def samples(tiny_drseg: Path) -> list[Sample]:
    return load_dataset(tiny_drseg, "test")


def oracle(model: PixDLMForCausalLM):
    """A forward pass that knows the masks; every question's logits are 3 inside and -3 outside."""

    def run(batch: Batch) -> SimpleNamespace:
        logits = []
        for masks, picture in zip(batch.masks, batch.image_index.tolist(), strict=True):
            canvases = [network_mask(mask.numpy(), batch.geometries[picture], 64) for mask in masks]
            logits.append(torch.from_numpy(np.stack(canvases)).float() * 6 - 3)
        return SimpleNamespace(mask_logits=logits)

    return run


def test_right_masks_score_near_one_each_against_its_own_target(
    tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, samples: list[Sample]
) -> None:
    found = evaluate(tiny_model, tokenizer, samples, 3, runner=oracle(tiny_model))
    assert [(one.score.index, one.score.target) for one in found] == [
        (i, k) for i, sample in enumerate(samples) for k in range(len(sample.targets))
    ]
    for one in found:
        sample, score = samples[one.score.index], one.score
        drawn = {"Which truck is hidden?": 600, "Which bus?": 400, "Which van?": 400}.get(sample.question, 200)
        if score.target:
            drawn = 400
        enlarged = 4 if sample.record_id == "tall" else 1
        assert (score.area, score.pixels) == (drawn * enlarged, sample.height * sample.width * enlarged)
        assert coco.area(one.rle) == score.union - score.area + score.intersection
        assert score.iou > 0.85 and one.confidence > 0.8
        assert score.groups == sample.groups
        assert one.text == " ".join(SEG_TOKENS * len(sample.targets))


def test_the_models_own_forward_is_what_runs(
    tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, samples: list[Sample]
) -> None:
    found = evaluate(tiny_model, tokenizer, samples, 4)
    again = evaluate(tiny_model, tokenizer, samples, 4, runner=tiny_model.forward)
    assert found == again and len(found) == 12  # 11 questions, one of which has two targets
    flipped = evaluate(tiny_model, tokenizer, samples, 4, runner=lambda batch: negated(tiny_model(batch)))
    for one, other in zip(found, flipped, strict=True):
        assert coco.area(one.rle) + coco.area(other.rle) == one.score.pixels  # foreground is where logits are above 0


def negated(output) -> SimpleNamespace:
    return SimpleNamespace(mask_logits=[-one for one in output.mask_logits])


@pytest.mark.parametrize("processes", [2, 3, 7])
def test_shares_of_several_processes_make_up_the_numbers_of_one(
    tiny_model: PixDLMForCausalLM,
    tokenizer: PixTokenizer,
    samples: list[Sample],
    monkeypatch: pytest.MonkeyPatch,
    processes: int,
) -> None:
    alone = evaluate(tiny_model, tokenizer, samples, 3)
    shares: list[list[Prediction]] = []
    monkeypatch.setattr(evaluation, "world_size", lambda: processes)
    monkeypatch.setattr(evaluation, "gather_lists", lambda own: shares.append(own))
    for rank in reversed(range(processes)):
        monkeypatch.setattr(evaluation, "rank", lambda rank=rank: rank)
        assert evaluate(tiny_model, tokenizer, samples, 3) is None  # as on every process but the first
    everything = [one for share in shares for one in share]
    monkeypatch.setattr(evaluation, "gather_lists", lambda own: everything)
    assert evaluate(tiny_model, tokenizer, samples, 3) == alone


def test_workers_change_nothing(tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, samples: list[Sample]) -> None:
    assert evaluate(tiny_model, tokenizer, samples, 3, workers=1) == evaluate(tiny_model, tokenizer, samples, 3)


def test_pixels_take_the_type_of_the_weights(
    tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, samples: list[Sample]
) -> None:
    model = tiny_model.to(torch.bfloat16)
    assert len(evaluate(model, tokenizer, samples[:3], 3, dtype=torch.bfloat16)) == 3


def test_arithmetic_is_exact_while_evaluating_and_as_before_afterwards(
    tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, samples: list[Sample]
) -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    inside = []

    def failing(batch: Batch) -> None:
        inside.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        raise KeyError

    try:
        torch.set_float32_matmul_precision("medium")
        torch.backends.cudnn.allow_tf32 = True
        with pytest.raises(KeyError):
            evaluate(tiny_model, tokenizer, samples, 3, runner=failing)
        assert inside == [("highest", False)]
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("medium", True)
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def test_every_process_runs_as_many_validation_batches(
    data: Path, tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ZeRO-3 every forward pass gathers weights from all processes."""
    samples = load_dataset(data, "val")  # two pictures of three records
    passes: list[int] = []
    found: list[list] = []
    monkeypatch.setattr(evaluation, "world_size", lambda: 4)
    monkeypatch.setattr(evaluation, "gather_lists", lambda items: items)
    for rank in range(4):
        monkeypatch.setattr(evaluation, "rank", lambda rank=rank: rank)
        passes.append(0)

        def run(batch: Any) -> Any:
            passes[-1] += 1
            return tiny_model(batch)

        found.append(evaluate(tiny_model, tokenizer, samples, 3, runner=run))
    assert sum(map(len, found)) == len(samples)  # each record is scored once
    assert len(set(passes)) == 1
