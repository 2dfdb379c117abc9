"""model.processor: pictures and questions of every kind into a batch, without a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.config import PixDLMConfig
from model.inputs.images import Picture, read_image
from model.language.tokens import PixTokenizer
from model.processor import PixDLMProcessor
from utils.datasets.loading.collate import Collator
from utils.datasets.registry import load_dataset
from utils.runtime.errors import UserError

QUESTION = "Which car is red?"


@pytest.fixture
def processor(tiny_config: PixDLMConfig, tokenizer: PixTokenizer) -> PixDLMProcessor:
    return PixDLMProcessor(tiny_config, tokenizer)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "frame.png")
    return tmp_path / "frame.png"


def test_a_picture_is_the_same_however_it_comes(processor: PixDLMProcessor, picture: Path) -> None:
    pixels = read_image(picture)
    expected = processor([picture], [QUESTION])
    assert [(one.height, one.width) for one in expected.geometries] == [(40, 60)]
    for image in (str(picture), Picture(picture), Image.open(picture), pixels):
        found = processor(image, QUESTION)  # alone, without lists
        assert torch.equal(found.clip_pixels, expected.clip_pixels)
        assert torch.equal(found.sam_pixels, expected.sam_pixels)
        assert torch.equal(found.input_ids, expected.input_ids)
    grey = processor(pixels[..., 0], QUESTION)
    assert torch.equal(grey.clip_pixels, processor(np.repeat(pixels[..., :1], 3, axis=2), QUESTION).clip_pixels)


def test_it_makes_what_the_collator_makes_but_the_targets(
    processor: PixDLMProcessor, tiny_drseg: Path, tokenizer: PixTokenizer
) -> None:
    samples = [one for one in load_dataset(tiny_drseg, "test") if len(one.targets) == 1]
    expected = Collator(processor.config, tokenizer)(samples)
    found = processor([one.image_path for one in samples], [one.question for one in samples])
    for name in ("clip_pixels", "sam_pixels", "image_index", "input_ids", "attention_mask", "labels", "question_ids"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert found.geometries == expected.geometries
    assert found.masks == [] and len(expected.masks) == len(samples)


def test_many_questions_about_one_picture_read_it_once(
    processor: PixDLMProcessor, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = processor(picture, [QUESTION, "Where?"])
    assert len(batch.clip_pixels) == 1 and batch.image_index.tolist() == [0, 0]
    again = processor([picture, str(picture) + "", picture], ["a", "b", "c"])
    assert again.image_index.tolist() == [0, 1, 0]


def test_a_prompt_may_end_where_the_answer_begins(processor: PixDLMProcessor, picture: Path) -> None:
    open_ended, forced = processor(picture, QUESTION, targets=None), processor(picture, QUESTION, targets=2)
    assert (open_ended.labels < 0).all()
    assert forced.input_ids.shape[1] == open_ended.input_ids.shape[1] + 2 * 9 + 1
    assert (forced.labels >= 0).sum() == 2 * 9 + 1


def test_what_cannot_be_used_is_told(processor: PixDLMProcessor, picture: Path) -> None:
    with pytest.raises(UserError, match="question 'Which <image>.': the question contains the special token '<image>'"):
        processor(picture, "Which <image>?")
    with pytest.raises(UserError, match="its prompt has .* tokens, .* fit beside the image; shorten the question"):
        processor(picture, "why " * 400)
    with pytest.raises(UserError, match="none.png: no such picture"):
        processor(picture.with_name("none.png"), QUESTION)
    with pytest.raises(TypeError, match="images are expected, alone or in a list; got int"):
        processor([picture, 3], [QUESTION, QUESTION])
    with pytest.raises(TypeError, match="questions are expected, alone or in a list; got bytes"):
        processor(picture, b"Which?")
    with pytest.raises(TypeError, match=r"an image is a path, bytes, a PIL image, .*; got float64\[4, 4, 3\]"):
        processor(np.zeros((4, 4, 3)), QUESTION)
    with pytest.raises(ValueError, match="2 images and 3 questions; give one image, or one a question"):
        processor([picture, picture], ["a", "b", "c"])


def test_a_prompt_leaves_room_for_an_answer(tiny_config: PixDLMConfig, tokenizer: PixTokenizer) -> None:
    processor = PixDLMProcessor(tiny_config, tokenizer)
    processor.max_prompt_tokens = len(tokenizer.prompt("Which car?", answered=False).ids) + 1
    assert len(processor.text(["Which car?"], [0], [], None)) == 1
    processor.max_prompt_tokens -= 1
    with pytest.raises(UserError, match="shorten the question"):
        processor.text(["Which car?"], [0], [], None)
