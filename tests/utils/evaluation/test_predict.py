"""utils.evaluation.predict: passes that do not depend on processes, and answers that depend on neither."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from model.inputs.batch import Batch
from model.inputs.images import network_mask
from model.language.decoding import Decoding
from model.language.tokens import EOS_ID, PAD_ID, SEG_TOKENS, PixTokenizer
from model.pixdlm import PixDLMForCausalLM
from utils.datasets.base import Sample, target_masks
from utils.datasets.drseg import SPEC
from utils.datasets.loading.collate import BadSample
from utils.datasets.registry import load_dataset
from utils.evaluation import predict as evaluation
from utils.evaluation.controls import CONTROLS, SHUFFLED_QUESTIONS
from utils.evaluation.predict import Loading, batched, fixed_passes, predict
from utils.evaluation.predictions import Record
from utils.evaluation.protocols import FORCED, GENERATE, NO_REASONING, OWN_REASONING, Protocol
from utils.evaluation.scoring import score_records

PUBLISHED = Protocol()
GREEDY, SAMPLED = Decoding(max_new_tokens=5), Decoding(max_new_tokens=5, temperature=1.0, top_p=0.9)
WRITING = {
    "forced after own words": Protocol(FORCED, OWN_REASONING, GREEDY),
    "generated": Protocol(GENERATE, NO_REASONING, GREEDY),
    "generated under controls": Protocol(GENERATE, OWN_REASONING, GREEDY, CONTROLS),
    "sampled": Protocol(GENERATE, OWN_REASONING, SAMPLED),
    "sampled under controls": Protocol(FORCED, OWN_REASONING, SAMPLED, CONTROLS, seed=5),
}
Run = Callable[[Batch], Any]


def asked(*questions: str, pictures: list[int] | None = None) -> list[Sample]:
    return [
        Sample(Path(f"{(pictures or range(99))[i]}.jpg"), q, None, (), 9, 9, "drseg", str(i), i, key=str(i))
        for i, q in enumerate(questions)
    ]


# Passes


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_passes_are_no_larger_and_a_pictures_records_stay_together_as_far_as_they_fit(size: int) -> None:
    pictures = [0, 1, 1, 2, 0, 3, 3, 3, 3, 4]
    batches = fixed_passes(asked(*"abcdefghij", pictures=pictures), size)
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


@pytest.mark.parametrize(
    ("records", "expected"),
    [(1, [[0], [1], [2], [3]]), (4, [[0], [1, 2], [3]]), (5, [[0, 1], [2, 3]]), (99, [[0, 1, 2, 3]])],
)
def test_passes_are_joined_in_their_order_while_they_fit(records: int, expected: list[list[int]]) -> None:
    passes = [asked("?" * size)[:1] * size for size in (3, 2, 2, 3)]
    assert batched(passes, records) == expected


# Answers to a split


@pytest.fixture
def samples(tiny_drseg: Path) -> list[Sample]:
    return load_dataset(tiny_drseg, "test")


def answers(
    model: PixDLMForCausalLM,
    tokenizer: PixTokenizer,
    samples: list[Sample],
    protocol: Protocol = PUBLISHED,
    done: list[Record] | None = None,
    run: Run | None = None,
    **loading: Any,
) -> list[Record]:
    """What a process writes, in its order."""
    found: list[Record] = []
    loading = {"pass_size": 3, **loading}
    predict(model, tokenizer, samples, protocol, Loading(**loading), found.extend, done or (), run)
    return found


def by_name(records: list[Record]) -> dict[tuple[str, str], Record]:
    """By control and id; each is there once."""
    found = {(one["control"], one["id"]): one for one in records}
    assert len(found) == len(records)
    return found


def on_processes(
    monkeypatch: pytest.MonkeyPatch, processes: int, work: Callable[[], list[Record]]
) -> list[list[Record]]:
    """What each process would write."""
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "world_size", lambda: processes)
        shares = []
        for rank in range(processes):
            patch.setattr(evaluation, "rank", lambda rank=rank: rank)
            shares.append(work())
    return shares


def oracle(samples: list[Sample], size: int) -> Run:
    """A forward pass that knows the masks; every question's logits are 3 inside and -3 outside."""
    passes = iter(fixed_passes(samples, size))

    def run(batch: Batch) -> SimpleNamespace:
        logits = []
        for i, picture in zip(next(passes), batch.image_index.tolist(), strict=True):
            masks = target_masks(samples[i], *samples[i].size)
            canvases = [network_mask(mask, batch.geometries[picture], 64) for mask in masks]
            logits.append(torch.from_numpy(np.stack(canvases)).float() * 6 - 3)
        return SimpleNamespace(mask_logits=logits)

    return run


def test_right_masks_score_near_one_each_against_its_own_target(
    tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, samples: list[Sample]
) -> None:
    records = answers(tiny_model, tokenizer, samples, run=oracle(samples, 3))
    assert len(records) == len(samples) and {one["status"] for one in records} == {"ok"}
    found = score_records(samples, {one["id"]: one for one in records}, SPEC.scoring())
    assert [(score.index, score.target) for score, _, _ in found] == [
        (i, k) for i, sample in enumerate(samples) for k in range(len(sample.targets))
    ]
    for score, record, mask in found:
        sample = samples[score.index]
        assert (record["id"], record["question"], mask) == (sample.key, sample.question, score.target)
        drawn = {"Which truck is hidden?": 600, "Which bus?": 400, "Which van?": 400}.get(sample.question, 200)
        if score.target:
            drawn = 400
        enlarged = 4 if sample.record_id == "tall" else 1
        assert (score.area, score.pixels) == (drawn * enlarged, sample.height * sample.width * enlarged)
        assert coco.area(record["masks"][mask]) == score.union - score.area + score.intersection
        assert score.iou > 0.85 and score.confidence > 0.8
        assert score.groups == sample.groups
        assert record["text"] == " ".join(SEG_TOKENS * len(sample.targets))


def test_the_models_own_forward_is_what_runs(
    tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, samples: list[Sample]
) -> None:
    found = answers(tiny_model, tokenizer, samples, pass_size=4)
    again = answers(tiny_model, tokenizer, samples, pass_size=4, run=tiny_model.forward)
    assert found == again and [len(one["masks"]) for one in by_name(found).values()].count(2) == 1
    flipped = answers(tiny_model, tokenizer, samples, pass_size=4, run=lambda batch: negated(tiny_model(batch)))
    for one, other in zip(found, flipped, strict=True):
        for mask, rest in zip(one["masks"], other["masks"], strict=True):
            assert coco.area(mask) + coco.area(rest) == np.prod(mask["size"])  # foreground is where logits are above 0


def negated(output: Any) -> SimpleNamespace:
    return SimpleNamespace(mask_logits=[-one for one in output.mask_logits])


@pytest.mark.parametrize("processes", [2, 3, 7])
def test_shares_of_several_processes_make_up_the_answers_of_one(
    tiny_model: PixDLMForCausalLM,
    tokenizer: PixTokenizer,
    samples: list[Sample],
    monkeypatch: pytest.MonkeyPatch,
    processes: int,
) -> None:
    alone = by_name(answers(tiny_model, tokenizer, samples))
    shares = on_processes(monkeypatch, processes, lambda: answers(tiny_model, tokenizer, samples))
    assert len(fixed_passes(samples, 3)) == 5 and sum(map(bool, shares)) == min(processes, 5)
    assert by_name([one for share in shares for one in share]) == alone


def test_workers_change_nothing(tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, samples: list[Sample]) -> None:
    assert answers(tiny_model, tokenizer, samples, workers=1) == answers(tiny_model, tokenizer, samples)


def test_pixels_take_the_type_of_the_weights(
    tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, samples: list[Sample]
) -> None:
    model = tiny_model.to(torch.bfloat16)
    for run in (None, model.forward):
        assert len(answers(model, tokenizer, samples[:3], run=run, dtype=torch.bfloat16)) == 3


def test_arithmetic_is_exact_while_predicting_and_as_before_afterwards(
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
            answers(tiny_model, tokenizer, samples, run=failing)
        assert inside == [("highest", False)]
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("medium", True)
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def test_every_process_runs_as_many_validation_passes(
    data: Path, tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ZeRO-3 every forward pass gathers weights from all processes."""
    samples = load_dataset(data, "val")  # two pictures of three records
    passes: list[int] = []

    def work() -> list[Record]:
        passes.append(0)

        def run(batch: Any) -> Any:
            passes[-1] += 1
            return tiny_model(batch)

        return answers(tiny_model, tokenizer, samples, run=run)

    shares = on_processes(monkeypatch, 4, work)
    assert len(by_name([one for share in shares for one in share])) == len(samples)  # each is answered once
    assert passes == [1] * 4


def test_a_picture_that_cannot_be_decoded_is_named(
    tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, samples: list[Sample]
) -> None:
    samples[3].image_path.write_bytes(samples[3].image_path.read_bytes()[:200])
    for workers in (0, 1):
        with pytest.raises(BadSample, match=r"^[^\n]*parted\.jpg[^\n]*$"):
            answers(tiny_model, tokenizer, samples, workers=workers)


# What neither batches nor processes nor an earlier start change


@pytest.fixture
def writer(
    tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, monkeypatch: pytest.MonkeyPatch
) -> PixDLMForCausalLM:
    """Its words differ from question to question, and [SEG] groups, two to none, follow on them."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in tiny_model.language_model.named_parameters():
            if name.endswith("proj.weight"):
                parameter.copy_(torch.randn_like(parameter) * 0.3)
            elif "embed_tokens" in name or "lm_head" in name:
                parameter.copy_(torch.randn_like(parameter))
        tiny_model.language_model.lm_head.weight[[PAD_ID, EOS_ID, *tokenizer.seg_ids]] = 0.0
    generate = PixDLMForCausalLM.generate_answers

    def written(*given: Any) -> list[list[int]]:
        return [ids + tokenizer.seg_ids * (sum(ids) % 3) for ids in generate(*given)]

    monkeypatch.setattr(PixDLMForCausalLM, "generate_answers", written)
    return tiny_model


@pytest.mark.parametrize("name", WRITING)
def test_neither_batch_size_nor_processes_change_an_answer(
    writer: PixDLMForCausalLM,
    tokenizer: PixTokenizer,
    samples: list[Sample],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    protocol = WRITING[name]
    expected = by_name(answers(writer, tokenizer, samples, protocol, batch_size=1))
    assert len(expected) == len(samples) * len(protocol.controls)
    assert len({one["text"] for one in expected.values()}) > 5
    if protocol.kind == GENERATE:
        assert len({len(one["masks"]) for one in expected.values()}) > 1
    for size in (4, 7):
        assert by_name(answers(writer, tokenizer, samples, protocol, batch_size=size)) == expected
    shares = on_processes(monkeypatch, 2, lambda: answers(writer, tokenizer, samples, protocol, batch_size=4))
    assert all(shares) and by_name([one for share in shares for one in share]) == expected


@pytest.mark.parametrize("load_in", ["8bit", "int8"])
def test_neither_does_where_rows_share_a_scale(
    writer: PixDLMForCausalLM,
    tokenizer: PixTokenizer,
    samples: list[Sample],
    monkeypatch: pytest.MonkeyPatch,
    load_in: str,
) -> None:
    """As in some quantised models: every answer depends on those written at once."""
    writer.load_in, sizes, generate = load_in, [], PixDLMForCausalLM.generate_answers

    def written(model: PixDLMForCausalLM, batch: Batch, *given: Any) -> list[list[int]]:
        sizes.append(len(batch.input_ids))
        return [ids[: len(batch.input_ids)] for ids in generate(model, batch, *given)]

    monkeypatch.setattr(PixDLMForCausalLM, "generate_answers", written)
    one, many = (answers(writer, tokenizer, samples, WRITING["generated"], batch_size=size) for size in (1, 7))
    assert by_name(one) == by_name(many) and max(sizes) == 3


@pytest.mark.parametrize("name", WRITING)
@pytest.mark.parametrize("left", [{1, 4}, {0, 2}, set()])
def test_what_is_done_already_is_left_out_and_changes_nothing(
    writer: PixDLMForCausalLM, tokenizer: PixTokenizer, samples: list[Sample], name: str, left: set[int]
) -> None:
    """By passes: the ones that are left may lie beside each other now."""
    protocol, passes = WRITING[name], fixed_passes(samples, 3)
    expected = by_name(answers(writer, tokenizer, samples, protocol))
    missing = {samples[i].key for number in left for i in passes[number]}
    done = [one for one in expected.values() if one["id"] not in missing]
    found = by_name(answers(writer, tokenizer, samples, protocol, done))
    assert found == {key: one for key, one in expected.items() if key[1] in missing}


def test_a_pass_of_which_one_answer_is_missing_is_answered_as_a_whole(
    writer: PixDLMForCausalLM, tokenizer: PixTokenizer, samples: list[Sample]
) -> None:
    protocol, lost = WRITING["sampled under controls"], (SHUFFLED_QUESTIONS, samples[1].key)
    expected = by_name(answers(writer, tokenizer, samples, protocol))
    done = [one for key, one in expected.items() if key != lost]
    found = by_name(answers(writer, tokenizer, samples, protocol, done))
    beside = {samples[i].key for i in next(one for one in fixed_passes(samples, 3) if 1 in one)}
    assert lost in found and found == {key: one for key, one in expected.items() if key[1] in beside}


def test_another_seed_samples_another_answer(
    writer: PixDLMForCausalLM, tokenizer: PixTokenizer, samples: list[Sample]
) -> None:
    found = [
        [one["text"] for one in answers(writer, tokenizer, samples, Protocol(GENERATE, decoding=SAMPLED, seed=seed))]
        for seed in (0, 0, 1)
    ]
    assert found[0] == found[1] and sum(a != b for a, b in zip(found[0], found[2], strict=True)) > 5
