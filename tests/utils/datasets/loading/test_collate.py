"""Samples into batches: padding, labels, shared pictures, cuts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from model.config import PixDLMConfig
from model.inputs.batch import Batch
from model.language.tokens import BOS_ID, EOS_ID, IGNORE_INDEX, IMAGE_INDEX, PixTokenizer
from model.masks import IGNORE_LABEL
from model.presets import mini_config, release_config
from utils.datasets.base import Sample, target_masks
from utils.datasets.loading import collate
from utils.datasets.loading.collate import BadSample, Collator
from utils.datasets.registry import load_dataset
from utils.runtime.errors import UserError

Make = Callable[..., Any]
TWO_TARGETS = [{"segmentation": [10, 10, 30, 10, 30, 20, 10, 20]}, {"segmentation": [50, 30, 60, 30, 60, 40, 50, 40]}]
LONG = "Which of the cars beside the crossing of the two roads is red?"


@pytest.fixture
def config(tokenizer: PixTokenizer) -> PixDLMConfig:
    return mini_config(tokenizer.pieces.vocab_size())


@pytest.fixture
def samples(make_drseg: Make, make_record: Make) -> list[Sample]:
    """Three questions: two about picture a, which has one target, and a long one about b, which has two."""
    about_a = {"questions": ["Which?", "Where?"], "answers": [None, None], "reasoning_types": [None, None]}
    about_b = {"questions": [LONG], "ann_list": TWO_TARGETS, "height": 90, "width": 70}
    return load_dataset(make_drseg([make_record("a", **about_a), make_record("b", **about_b)]), "test")


@pytest.fixture
def batch(config: PixDLMConfig, tokenizer: PixTokenizer, samples: list[Sample]) -> Batch:
    return Collator(config, tokenizer)(samples)


def test_a_picture_is_decoded_once_for_all_its_questions(
    config: PixDLMConfig, tokenizer: PixTokenizer, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    monkeypatch.setattr(
        collate, "frame_of", lambda path, *to, real=collate.frame_of: decoded.append(path.name) or real(path, *to)
    )
    batch = Collator(config, tokenizer)([samples[0], samples[2], samples[1]])
    assert decoded == ["a.jpg", "b.jpg"]
    assert batch.image_index.tolist() == [0, 1, 0]
    side = mini_config().pixel_image_size
    assert batch.clip_pixels.shape == batch.sam_pixels.shape == (2, 3, side, side)
    assert [(one.height, one.width) for one in batch.geometries] == [(60, 80), (90, 70)]
    assert batch.samples == [samples[0], samples[2], samples[1]]


def test_prompts_are_padded_on_the_right(batch: Batch, tokenizer: PixTokenizer) -> None:
    lengths = batch.attention_mask.sum(dim=1)
    assert len(batch) == 3 and lengths.max() == batch.input_ids.shape[1] and lengths.min() < lengths.max()
    for row, length in enumerate(lengths.tolist()):
        prompt = tokenizer.prompt(batch.samples[row].question, targets=len(batch.masks[row]))
        assert batch.input_ids[row].tolist() == prompt.ids + [0] * (lengths.max().item() - length)
        assert batch.attention_mask[row, :length].all() and not batch.attention_mask[row, length:].any()
        assert batch.labels[row, :length].tolist() == prompt.labels
        assert (batch.labels[row, length:] == IGNORE_INDEX).all()
    assert (batch.input_ids == IMAGE_INDEX).sum(dim=1).tolist() == [1, 1, 1]


def test_bare_questions_are_padded_on_the_right(batch: Batch, tokenizer: PixTokenizer) -> None:
    for row, one in enumerate(batch.samples):
        ids = tokenizer.question(one.question)
        assert batch.question_ids[row, batch.question_mask[row]].tolist() == ids
        assert batch.question_mask[row, : len(ids)].all() and not batch.question_mask[row, len(ids) :].any()
        assert not batch.question_ids[row, len(ids) :].any()


def test_every_target_has_a_mask_and_a_seg_group(batch: Batch, tokenizer: PixTokenizer) -> None:
    assert [tuple(mask.shape) for mask in batch.masks] == [(1, 60, 80), (1, 60, 80), (2, 90, 70)]
    assert {mask.dtype for mask in batch.masks} == {torch.uint8}
    assert [mask.sum().item() for mask in batch.masks[2]] == [200, 100]
    assert [len(tokenizer.seg_groups(ids.tolist())) for ids in batch.input_ids] == [1, 1, 2]


def test_release_answers_with_one_target_and_gives_sam_no_pixels(
    tokenizer: PixTokenizer, samples: list[Sample]
) -> None:
    batch = Collator(release_config(), tokenizer)(samples[2:])
    assert batch.sam_pixels is None and batch.clip_pixels.shape == (1, 3, 448, 448)
    assert batch.masks[0].shape == (1, 90, 70) and batch.masks[0].sum() == 300
    assert len(tokenizer.seg_groups(batch.input_ids[0].tolist())) == 1
    assert batch.to("cpu", torch.bfloat16).sam_pixels is None


def test_targets_can_be_drawn_smaller_for_training(
    config: PixDLMConfig, tokenizer: PixTokenizer, samples: list[Sample]
) -> None:
    whole = Collator(config, tokenizer)(samples)
    batch = Collator(config, tokenizer, mask_side=45)(samples)
    assert [tuple(mask.shape) for mask in batch.masks] == [(1, 34, 45), (1, 34, 45), (2, 45, 35)]
    for small, large, scale in zip(batch.masks, whole.masks, (45 / 80, 45 / 80, 1 / 2), strict=True):
        assert small.sum().item() == pytest.approx(scale**2 * large.sum().item(), rel=0.15)
    assert torch.equal(batch.sam_pixels, whole.sam_pixels) and torch.equal(batch.input_ids, whole.input_ids)
    assert batch.geometries == whole.geometries
    same = Collator(config, tokenizer, mask_side=1000)(samples)
    assert [tuple(mask.shape) for mask in same.masks] == [tuple(mask.shape) for mask in whole.masks]


def test_a_target_that_would_vanish_takes_the_pixels_that_it_touches(
    config: PixDLMConfig, tokenizer: PixTokenizer, make_drseg: Make, make_record: Make
) -> None:
    corner = [{"segmentation": [61, 41, 63, 41, 63, 43, 61, 43]}]  # 4 pixels of a frame of 80 x 60
    (sample,) = load_dataset(make_drseg([make_record("a", ann_list=corner)]), "test")
    (mask,) = Collator(config, tokenizer, mask_side=16)([sample]).masks
    assert tuple(mask.shape) == (1, 12, 16)
    assert mask[0].nonzero().tolist() == [[41 * 12 // 60, 61 * 16 // 80]]


def test_unanswered_prompts_end_where_the_answer_begins(
    config: PixDLMConfig, tokenizer: PixTokenizer, samples: list[Sample]
) -> None:
    batch = Collator(config, tokenizer, answered=False)(samples[2:])
    assert batch.input_ids[0].tolist() == tokenizer.prompt(LONG, answered=False).ids
    assert (batch.labels == IGNORE_INDEX).all()


# Cuts


def test_the_published_cut_is_at_257_tokens(tokenizer: PixTokenizer) -> None:
    assert Collator(release_config(), tokenizer, truncate=True).processor.max_prompt_tokens == 257
    assert Collator(release_config(), tokenizer).processor.max_prompt_tokens == 4096 - 255


def test_a_cut_may_take_the_end_of_sequence_but_no_seg_token(
    config: PixDLMConfig, tokenizer: PixTokenizer, samples: list[Sample]
) -> None:
    whole = tokenizer.prompt(LONG, targets=2)

    def cut_to(length: int) -> Batch:
        config.max_sequence = length + config.image_tokens - 1
        return Collator(config, tokenizer, truncate=True)(samples)

    assert cut_to(len(whole.ids)).input_ids[2].tolist() == whole.ids
    batch = cut_to(len(whole.ids) - 1)
    assert batch.input_ids[2].tolist() == whole.ids[:-1] and batch.labels[2].tolist() == whole.labels[:-1]
    assert batch.input_ids[0].tolist().count(EOS_ID) == 1  # shorter ones stay whole
    tokens = len(whole.ids)
    with pytest.raises(UserError, match=rf"record 1 \(id 'b'\): .* {tokens - 1} tokens, {tokens - 2} fit"):
        cut_to(len(whole.ids) - 2)


def test_without_a_cut_only_the_language_model_sets_a_limit(
    config: PixDLMConfig, tokenizer: PixTokenizer, samples: list[Sample]
) -> None:
    config.max_sequence = config.image_tokens + 10
    assert len(Collator(config, tokenizer)(samples)) == 3
    config.text_config.max_position_embeddings = config.image_tokens + 10
    with pytest.raises(UserError, match="11 fit beside the image"):
        Collator(config, tokenizer)(samples)
    with pytest.raises(UserError, match="shorten the question"):
        Collator(config, tokenizer, answered=False)(samples)


# Errors


def test_a_special_token_in_a_question_is_an_error_that_names_the_record(
    config: PixDLMConfig, tokenizer: PixTokenizer, make_drseg: Make, make_record: Make
) -> None:
    samples = load_dataset(make_drseg([make_record("odd", questions=["Where is [SEG0]?"])]), "test")
    with pytest.raises(UserError, match=r"record 0 \(id 'odd'\): .*special token '\[SEG0\]'"):
        Collator(config, tokenizer)(samples)


def test_a_workers_error_is_one_line(config: PixDLMConfig, tokenizer: PixTokenizer, samples: list[Sample]) -> None:
    path = samples[0].image_path
    path.write_bytes(path.read_bytes()[:1500])
    loader = DataLoader(samples, batch_size=3, collate_fn=Collator(config, tokenizer), num_workers=1)
    error = error_of(loader)
    assert isinstance(error, BadSample) and isinstance(error, UserError)
    assert str(error).startswith(f"{path}: damaged or no picture") and "\n" not in str(error)


def error_of(loader: DataLoader) -> Exception | None:
    """What a loader raises; its traceback is let go, since workers that it keeps alive are waited for."""
    try:
        list(loader)
    except Exception as error:
        return error.with_traceback(None)
    return None


# Between processes


def test_a_batch_crosses_workers_whole(
    config: PixDLMConfig, tokenizer: PixTokenizer, samples: list[Sample], batch: Batch
) -> None:
    (crossed,) = DataLoader(samples, batch_size=3, collate_fn=Collator(config, tokenizer), num_workers=1)
    assert isinstance(crossed, Batch)
    for field in fields(Batch):
        here, there = getattr(batch, field.name), getattr(crossed, field.name)
        if field.name == "found":
            assert crossed._found_in_these_prompts()  # and need not be looked for again
        elif field.name == "masks":
            assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
        else:
            assert torch.equal(here, there) if isinstance(here, torch.Tensor) else here == there


def test_ids_fit_the_models_vocabulary(batch: Batch, config: PixDLMConfig) -> None:
    real = batch.input_ids[batch.input_ids != IMAGE_INDEX]
    assert real.min() >= 0 and real.max() < config.text_config.vocab_size
    assert (batch.input_ids[:, 0] == BOS_ID).all()


# Pixels that are not counted


def test_a_batch_knows_whether_pixels_are_ignored(
    config: PixDLMConfig, tokenizer: PixTokenizer, samples: list[Sample]
) -> None:
    left = ((0.0, 0.0, 40.0, 0.0, 40.0, 60.0, 0.0, 60.0),)
    ignoring = [replace(samples[0], ignore=left), *samples[1:]]
    batch = Collator(config, tokenizer)(ignoring)
    assert batch.has_ignored_pixels and not Collator(config, tokenizer)(samples).has_ignored_pixels
    assert [int((masks == IGNORE_LABEL).sum()) for masks in batch.masks] == [60 * 40, 0, 0]
    small = Collator(config, tokenizer, mask_side=40)(ignoring)
    assert small.has_ignored_pixels and (small.masks[0][:, :, :20] == IGNORE_LABEL).all()
    assert not (small.masks[0][:, :, 20:] == IGNORE_LABEL).any()


def test_an_ignored_pixel_does_not_stand_for_a_target_that_would_vanish(
    config: PixDLMConfig, tokenizer: PixTokenizer, make_drseg: Make, make_record: Make
) -> None:
    corner = [{"segmentation": [60, 41, 62, 41, 62, 43, 60, 43]}]
    (sample,) = load_dataset(make_drseg([make_record("a", ann_list=corner)]), "test")
    assert not target_masks(sample, 12, 16).any()
    ignoring = replace(sample, ignore=((0.0, 0.0, 20.0, 0.0, 20.0, 60.0, 0.0, 60.0),))
    for one in (sample, ignoring):
        (mask,) = Collator(config, tokenizer, mask_side=16)([one]).masks
        assert (mask[0] == 1).nonzero().tolist() == [[41 * 12 // 60, 60 * 16 // 80]]


def test_a_picture_is_turned_as_its_labels_lie(
    config: PixDLMConfig, tokenizer: PixTokenizer, make_drseg: Make, make_record: Make
) -> None:
    """Labels on the upright view of a picture that is stored upside down are those of the upright picture."""
    root = make_drseg([make_record("a")])
    path = root / "CODrone/DRtest/a.jpg"
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    Image.fromarray(pixels).save(path, "PNG")
    plain = Collator(config, tokenizer)(load_dataset(root, "test"))
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(pixels[::-1, ::-1]).save(path, "PNG", exif=exif)
    upright = load_dataset(root, "test", orientation="apply")
    stored = load_dataset(root, "test", orientation="stored")
    both = Collator(config, tokenizer)([*upright, *stored])
    assert both.image_index.tolist() == [0, 1]
    assert torch.equal(both.sam_pixels[0], plain.sam_pixels[0]) and torch.equal(both.masks[0], plain.masks[0])
    assert not torch.equal(both.sam_pixels[1], plain.sam_pixels[0]) and torch.equal(both.masks[1], plain.masks[0])
