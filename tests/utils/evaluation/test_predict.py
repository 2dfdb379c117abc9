"""utils.evaluation.predict: batches that do not depend on processes, the control, and exact scores."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

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
from utils.evaluation.controls import SWAPPED_IMAGES, controlled_model, shuffle_questions
from utils.evaluation.predict import Prediction, evaluate, fixed_batches


def asked(*questions: str, pictures: list[int] | None = None) -> list[Sample]:
    return [
        Sample(Path(f"{(pictures or range(99))[i]}.jpg"), q, None, (), 9, 9, None, None, "drseg", str(i), i)
        for i, q in enumerate(questions)
    ]


# Batches


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_a_pictures_records_stay_together_and_every_record_comes_once(size: int) -> None:
    pictures = [0, 1, 1, 2, 0, 3, 3, 3, 3, 4]
    batches = fixed_batches(asked(*"abcdefghij", pictures=pictures), size)
    assert sorted(index for batch in batches for index in batch) == list(range(10))
    where = {
        picture: {i for i, batch in enumerate(batches) for index in batch if pictures[index] == picture}
        for picture in range(5)
    }
    assert all(len(found) == 1 for found in where.values())
    largest = max(Counter(pictures).values())
    assert all(0 < len(batch) <= max(size, largest) for batch in batches)
    assert all(len(a) + Counter(pictures)[pictures[b[0]]] > size for a, b in zip(batches, batches[1:], strict=False))


# The control


@pytest.mark.parametrize("seed", range(5))
def test_shuffling_exchanges_every_question_and_nothing_else(seed: int) -> None:
    samples = asked(*(f"question {i}?" for i in range(20)))
    shuffled = shuffle_questions(samples, seed)
    assert sorted(one.question for one in shuffled) == sorted(one.question for one in samples)
    for before, after in zip(samples, shuffled, strict=True):
        assert after.question != before.question
        assert replace(after, question=before.question) == before


def test_shuffling_follows_the_seed() -> None:
    samples = asked(*(f"question {i}?" for i in range(20)))
    orders = [[one.question for one in shuffle_questions(samples, seed)] for seed in (0, 0, 1, 2)]
    assert orders[0] == orders[1] and len({tuple(order) for order in orders}) == 3


def test_shuffling_keeps_a_text_only_where_too_many_have_it() -> None:
    generator = random.Random(0)
    for seed in range(200):
        samples = asked(*generator.choices("abcd", weights=[6, 2, 1, 1], k=generator.randint(1, 12)))
        most = max(Counter(one.question for one in samples).values())
        pairs = zip(samples, shuffle_questions(samples, seed), strict=True)
        assert sum(a.question == b.question for a, b in pairs) == max(0, 2 * most - len(samples))


def test_only_the_language_model_is_shown_another_picture(
    tiny_model: PixDLMForCausalLM, collate: Callable[..., Batch]
) -> None:
    batch = collate()
    own = tiny_model.encode_images(batch)
    with controlled_model(tiny_model, SWAPPED_IMAGES):
        swapped = tiny_model.encode_images(batch)
    assert all(torch.equal(one, other) for one, other in zip(own.pyramid, swapped.pyramid, strict=True))
    assert len(own) > 1 and torch.equal(swapped.tokens, own.tokens[[len(own) - 1, *range(len(own) - 1)]])
    with pytest.raises(RuntimeError), controlled_model(tiny_model, SWAPPED_IMAGES):
        raise RuntimeError
    assert torch.equal(tiny_model.encode_images(batch).tokens, own.tokens)


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
