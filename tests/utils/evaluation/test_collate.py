"""utils.evaluation.collate: pictures once, prompts under each control, the same whatever the batches are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.config import PixDLMConfig
from model.inputs.batch import Batch
from model.inputs.images import frame_of
from model.language.tokens import PixTokenizer
from model.pixdlm import PixDLMForCausalLM
from utils.datasets.base import BadRecord, Sample
from utils.datasets.loading.collate import BadSample
from utils.datasets.registry import load_dataset
from utils.evaluation import collate as collating
from utils.evaluation.collate import EvaluationCollator, with_pixels
from utils.evaluation.controls import (
    BLANK_QUESTION,
    CONTROLS,
    NO_CONTROL,
    SHUFFLED_QUESTIONS,
    SWAPPED_IMAGES,
    other_pictures,
    shuffled_questions,
)
from utils.evaluation.predict import fixed_passes
from utils.evaluation.protocols import GENERATE, GIVEN_REASONING, OWN_REASONING, Protocol

SAID = "<answer>It.</answer>"


@pytest.fixture
def samples(tiny_drseg: Path) -> list[Sample]:
    return load_dataset(tiny_drseg, "test")


def prompt_ids(batch: Batch, row: int) -> list[int]:
    return batch.input_ids[row][batch.attention_mask[row]].tolist()


def passes_of(samples: Sequence[Sample], size: int) -> list[list[Sample]]:
    return [[samples[i] for i in one] for one in fixed_passes(samples, size)]


def test_a_pass_decodes_each_picture_once_and_asks_about_it(
    tiny_config: PixDLMConfig, tokenizer: PixTokenizer, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(collating, "frame_of", lambda path, *rest: read.append(path.stem) or frame_of(path, *rest))
    (one,) = EvaluationCollator(tiny_config, tokenizer, Protocol(), samples, 4)([samples[:5]]).passes
    assert read == ["wide", "parted", "two"] and len(one.pictures.clip_pixels) == 3
    prompts = one.prompts[NO_CONTROL]
    assert prompts.clip_pixels is None and prompts.image_index.tolist() == [0, 0, 0, 1, 2]
    assert one.groups == [1, 1, 1, 1, 2] and one.samples == samples[:5]
    for row, sample in enumerate(samples[:5]):
        assert prompt_ids(prompts, row) == tokenizer.prompt(sample.question, answered=False).ids


def test_no_target_gets_into_a_batch(tiny_config: PixDLMConfig, tokenizer: PixTokenizer, samples: list[Sample]) -> None:
    protocol = Protocol(GENERATE, OWN_REASONING, controls=CONTROLS)
    batch = EvaluationCollator(tiny_config, tokenizer, protocol, samples, 4)([samples])
    prompts = [*batch.passes[0].prompts.values(), *sum(batch.writing.values(), [])]
    assert len(prompts) == 4 * (1 + 3)  # for each control the pass, and its eleven questions four at once
    assert not any(one.masks or one.samples or (one.labels >= 0).any() for one in prompts)


def test_a_model_of_one_target_gets_one(
    tiny_config: PixDLMConfig, tokenizer: PixTokenizer, samples: list[Sample]
) -> None:
    tiny_config.single_target = True
    collate = EvaluationCollator(tiny_config, tokenizer, Protocol(), samples, 4)
    assert collate([samples[3:5]]).passes[0].groups == [1, 1]


def test_each_control_changes_the_question_alone(
    tiny_config: PixDLMConfig, tokenizer: PixTokenizer, samples: list[Sample]
) -> None:
    collate = EvaluationCollator(tiny_config, tokenizer, Protocol(controls=CONTROLS, seed=2), samples, 4)
    shuffled = shuffled_questions(samples, 2)
    for one in collate(passes_of(samples, 3)).passes:
        asked = {
            NO_CONTROL: [sample.question for sample in one.samples],
            SHUFFLED_QUESTIONS: [shuffled[sample.index] for sample in one.samples],
            SWAPPED_IMAGES: [sample.question for sample in one.samples],
            BLANK_QUESTION: [""] * len(one.samples),
        }
        assert one.questions == asked
        for control, questions in asked.items():
            prompts = one.prompts[control]
            assert prompts.image_index.tolist() == one.prompts[NO_CONTROL].image_index.tolist()
            for row, question in enumerate(questions):
                assert prompt_ids(prompts, row) == tokenizer.prompt(question or None, answered=False).ids


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_swapped_pictures_do_not_depend_on_batches(
    tiny_config: PixDLMConfig, tokenizer: PixTokenizer, samples: list[Sample], size: int
) -> None:
    partners = other_pictures(samples)
    collate = EvaluationCollator(tiny_config, tokenizer, Protocol(controls=CONTROLS), samples, 4)
    for of_pass in passes_of(samples, size):
        (one,) = collate([of_pass]).passes
        pixels = {
            path: collate.processor.images([frame_of(path, tiny_config)]).clip_pixels[0]
            for path in {sample.image_path for sample in samples}
        }
        for sample, picture in zip(one.samples, one.prompts[SWAPPED_IMAGES].image_index.tolist(), strict=True):
            assert torch.equal(one.pictures.clip_pixels[picture], pixels[sample.image_path])
            shown = one.pictures.clip_pixels[one.swapped[picture]]
            assert torch.equal(shown, pixels[partners[sample.image_path]])
            assert not torch.equal(shown, pixels[sample.image_path])


@torch.no_grad()
def test_only_the_language_model_is_shown_another_picture(
    tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, samples: list[Sample]
) -> None:
    protocol = Protocol(controls=CONTROLS)
    (one,) = EvaluationCollator(tiny_model.config, tokenizer, protocol, samples, 4)([samples]).passes
    own = tiny_model.encode_images(one.pictures)
    for control in (NO_CONTROL, SHUFFLED_QUESTIONS, BLANK_QUESTION):
        assert one.seen(own, control) is own
    swapped = one.seen(own, SWAPPED_IMAGES)
    assert swapped.geometries == own.geometries
    assert all(torch.equal(a, b) for a, b in zip(own.pyramid, swapped.pyramid, strict=True))
    assert one.swapped == [1, 0, 3, 2] and torch.equal(swapped.tokens, own.tokens[[1, 0, 3, 2]])


@pytest.mark.parametrize("at_once", [1, 4, 7, 100])
def test_what_is_written_together_is_about_the_pictures_of_all_passes(
    tiny_config: PixDLMConfig, tokenizer: PixTokenizer, samples: list[Sample], at_once: int
) -> None:
    collate = EvaluationCollator(tiny_config, tokenizer, Protocol(GENERATE, controls=CONTROLS), samples, at_once)
    batch = collate(passes_of(samples, 3))
    assert [len(one.samples) for one in batch.passes] == [3, 1, 3, 3, 1]
    pictures = torch.cat([one.pictures.clip_pixels for one in batch.passes])
    geometries = [geometry for one in batch.passes for geometry in one.pictures.geometries]
    rows = [(one, row) for one in batch.passes for row in range(len(one.samples))]
    for control, parts in batch.writing.items():
        assert [len(part) for part in parts[:-1]] == [at_once] * (len(parts) - 1)
        written = [(part, row) for part in parts for row in range(len(part))]
        for (part, row), (one, own) in zip(written, rows, strict=True):
            prompts = one.prompts[control]
            assert prompt_ids(part, row) == prompt_ids(prompts, own)
            place, here = int(part.image_index[row]), int(prompts.image_index[own])
            assert torch.equal(pictures[place], one.pictures.clip_pixels[here])
            assert part.geometries == geometries and geometries[place] == one.pictures.geometries[here]


def test_nothing_is_put_together_where_nothing_is_written(
    tiny_config: PixDLMConfig, tokenizer: PixTokenizer, samples: list[Sample]
) -> None:
    assert EvaluationCollator(tiny_config, tokenizer, Protocol(), samples, 4)([samples]).writing == {}


def test_words_of_the_data_set_are_given_on_request_alone(
    tiny_config: PixDLMConfig, tokenizer: PixTokenizer, samples: list[Sample]
) -> None:
    tiny_config.answer_format = "answer"
    for reasoning, words in ((GIVEN_REASONING, SAID), (OWN_REASONING, ""), ("none", "")):
        protocol = Protocol(reasoning=reasoning)
        (one,) = EvaluationCollator(tiny_config, tokenizer, protocol, samples, 4)([samples[:1]]).passes
        expected = tokenizer.prompt(samples[0].question, answered=False, words=words).ids
        assert prompt_ids(one.prompts[NO_CONTROL], 0) == expected


def test_what_cannot_be_collated_is_named(
    tiny_config: PixDLMConfig, tokenizer: PixTokenizer, samples: list[Sample]
) -> None:
    with pytest.raises(BadSample, match="no_such"):
        lost = [replace(samples[0], image_path=Path("no_such.jpg"))]
        EvaluationCollator(tiny_config, tokenizer, Protocol(), lost, 4)([lost])
    given = EvaluationCollator(tiny_config, tokenizer, Protocol(reasoning=GIVEN_REASONING), samples, 4)
    with pytest.raises((BadSample, BadRecord), match="has no reasoning"):
        given([samples[:1]])


def test_pixels_are_put_back_beside_prompts(
    tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, samples: list[Sample]
) -> None:
    (one,) = EvaluationCollator(tiny_model.config, tokenizer, Protocol(), samples, 4)([samples[:4]]).passes
    both = with_pixels(one.prompts[NO_CONTROL], one.pictures)
    assert both.clip_pixels is one.pictures.clip_pixels and both.sam_pixels is one.pictures.sam_pixels
    assert both.geometries == one.pictures.geometries and torch.equal(both.input_ids, one.prompts["none"].input_ids)


def test_a_question_without_targets_gets_a_group_so_that_their_number_gives_nothing_away(
    tiny_config: PixDLMConfig, tokenizer: PixTokenizer, samples: list[Sample]
) -> None:
    nothing = replace(samples[0], targets=())
    collate = EvaluationCollator(tiny_config, tokenizer, Protocol(), [nothing], 4)
    assert collate([[nothing]]).passes[0].groups == [1]
