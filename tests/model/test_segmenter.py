"""model.segmenter: masks of one picture, of lists, of encoded pictures; the class that it was called on."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model import PixDLM
from model.checkpoints.save import save_model
from model.inputs.images import frame_logits, read_image
from model.language.tokens import PixTokenizer
from model.masks import confidence
from model.pixdlm import PixDLMForCausalLM
from model.processor import PixDLMProcessor
from model.segmentation import Segmentation
from utils.runtime.errors import UserError

QUESTIONS = ["Which car is red?", "Where is the bus, and which way does it go?"]


@pytest.fixture
def folder(tmp_path: Path, tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer) -> Path:
    save_model(tmp_path / "model", tiny_model, tokenizer, tiny_model.state_dict(), {})
    return tmp_path / "model"


@pytest.fixture
def pixdlm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> PixDLM:
    """A model whose answers are given: a word and two [SEG] groups for the first question, one group for others."""
    loaded = PixDLM.from_pretrained(folder, device="cpu")
    seg, word = loaded.processor.tokenizer.seg_ids, loaded.processor.tokenizer.pieces.encode("car")

    def written(model: PixDLMForCausalLM, batch, *given) -> list[list[int]]:
        first = torch.tensor(loaded.processor.tokenizer.question(QUESTIONS[0]))
        starts = [torch.equal(row[: len(first)], first) for row in batch.question_ids]
        return [[*word, *seg, *seg] if start else [*seg] for start in starts]

    monkeypatch.setattr(PixDLMForCausalLM, "generate_answers", written)
    return loaded


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = []
    for number, size in enumerate([(40, 60, 3), (70, 50, 3)]):
        noise = np.random.default_rng(number).integers(0, 256, size, dtype=np.uint8)
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(noise).save(paths[-1])
    return paths


def same(found: Segmentation, expected: Segmentation) -> bool:
    """Up to single pixels whose logits lie at the border."""
    close = np.allclose(found.scores, expected.scores, atol=1e-3) and found.text == expected.text
    return close and (found.masks != expected.masks).mean() < 0.01


def test_masks_are_those_of_the_forward_pass_in_the_frames_own_pixels(pixdlm: PixDLM, pictures: list[Path]) -> None:
    answer = pixdlm.segment(pictures[0], QUESTIONS[0])
    assert answer.masks.shape == (2, 40, 60) and answer.masks.dtype == bool
    assert answer.text.startswith("car [SEG0] [SEG1]")
    batch = pixdlm.processor(pictures[0], QUESTIONS[0], targets=1)
    tokenizer = pixdlm.processor.tokenizer
    ids = tokenizer.prompt(QUESTIONS[0], answered=False).ids + tokenizer.pieces.encode("car") + tokenizer.seg_ids * 2
    batch.input_ids = torch.tensor([ids])
    with torch.no_grad():
        (logits,) = pixdlm.model(batch).mask_logits
    logits = frame_logits(logits, batch.geometries[0], pixdlm.model.config)
    assert np.array_equal(answer.masks, (logits > 0).numpy())
    assert answer.scores.tolist() == pytest.approx([confidence(one) for one in logits])
    rows, columns = np.nonzero(answer.masks[0])
    box = [columns.min(), rows.min(), columns.max() - columns.min() + 1, rows.max() - rows.min() + 1]
    assert answer.boxes[0].tolist() == box
    assert np.array_equal(answer.union, answer.masks.any(axis=0))


def test_lists_are_answered_in_one_batch(pixdlm: PixDLM, pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [pixdlm.segment(picture, question) for picture, question in zip(pictures, QUESTIONS, strict=True)]
    passes, forward = [], PixDLMForCausalLM.forward
    monkeypatch.setattr(
        PixDLMForCausalLM,
        "forward",
        lambda model, batch, **given: passes.append(len(batch)) or forward(model, batch, **given),
    )
    together = pixdlm.segment([read_image(pictures[0]), pictures[1]], QUESTIONS)
    assert passes == [2] and [one.masks.shape for one in together] == [(2, 40, 60), (1, 70, 50)]
    assert all(same(found, expected) for found, expected in zip(together, alone, strict=True))


def test_a_picture_is_encoded_once_for_many_questions(
    pixdlm: PixDLM, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, encoded = PixDLMForCausalLM.encode_images, []
    monkeypatch.setattr(
        PixDLMForCausalLM,
        "encode_images",
        lambda self, batch: encoded.append(len(batch.clip_pixels)) or encode(self, batch),
    )
    features = pixdlm.encode(pictures[1])
    answers = [pixdlm.segment(features, question) for question in QUESTIONS]
    assert encoded == [1]
    both = pixdlm.segment(pictures[1], QUESTIONS)
    assert encoded == [1, 1] and all(same(a, b) for a, b in zip(both, answers, strict=True))
    one_question = pixdlm.segment(pixdlm.encode(pictures), QUESTIONS[1])
    assert encoded == [1, 1, 2] and isinstance(one_question, (list, Segmentation))


def test_an_answer_without_a_group_has_no_mask(
    pixdlm: PixDLM, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    word = pixdlm.processor.tokenizer.pieces.encode("car")
    monkeypatch.setattr(PixDLMForCausalLM, "generate_answers", lambda *_: [word])
    answer = pixdlm.segment(pictures[0], QUESTIONS[0])
    assert answer.masks.shape == (0, 40, 60) and answer.boxes.shape == (0, 4) and answer.text == "car"
    assert not answer.union.any() and answer.union_score == 0


def test_what_cannot_be_is_told(pixdlm: PixDLM, pictures: list[Path]) -> None:
    with pytest.raises(ValueError, match="2 images and 3 questions"):
        pixdlm.segment(pictures, ["a", "b", "c"])
    with pytest.raises(TypeError, match="questions are expected"):
        pixdlm.segment(pictures[0], None)
    with torch.no_grad():
        pixdlm.model.mask_decoder.mask_tokens.weight.fill_(float("nan"))
    with pytest.raises(UserError, match=r"1\.png: the mask's logits are not finite; use fp32"):
        pixdlm.segment(pictures[1], QUESTIONS[1])
    with pytest.raises(UserError, match="no such model folder"):
        PixDLM.from_pretrained(pictures[0].parent / "none")
    with pytest.raises(TypeError, match="unknown options colour"):
        PixDLM.from_pretrained(pictures[0].parent / "model", device="cpu", colour="red")


class OwnModel(PixDLMForCausalLM):
    pass


class OwnProcessor(PixDLMProcessor):
    pass


class OwnSegmenter(PixDLM):
    pass


@pytest.mark.parametrize("kind", [OwnModel, OwnProcessor, OwnSegmenter])
def test_from_pretrained_gives_the_class_that_it_was_called_on(folder: Path, kind: type) -> None:
    assert type(kind.from_pretrained(folder)) is kind


def test_dtype_and_device_are_as_asked(folder: Path) -> None:
    assert PixDLM.from_pretrained(folder, device="cpu").model.dtype == torch.float32
    assert PixDLM.from_pretrained(folder, torch.device("cpu"), torch.bfloat16).model.dtype == torch.bfloat16
    with pytest.raises(UserError, match="known are"):
        PixDLM.from_pretrained(folder, dtype="int3")


def test_the_text_is_streamed_and_the_answer_is_that_of_segment(folder: Path, pictures: list[Path]) -> None:
    """Of a model that really writes: whatever it says, four tokens of it."""
    loaded = PixDLM.from_pretrained(folder, device="cpu")
    expected = loaded.segment(pictures[0], QUESTIONS[0], max_new_tokens=4)
    *texts, answer = loaded.stream(pictures[0], QUESTIONS[0], max_new_tokens=4)
    assert np.array_equal(answer.masks, expected.masks) and texts[-1] == answer.text == expected.text
    assert len(texts) == 4 and all(text.startswith(before) for before, text in zip(texts, texts[1:], strict=False))


def test_a_stream_passes_errors_on_and_ends_when_it_is_closed(folder: Path, pictures: list[Path]) -> None:
    loaded = PixDLM.from_pretrained(folder, device="cpu")
    with pytest.raises(UserError, match="no such picture"):
        list(loaded.stream(pictures[0].with_name("none.png"), QUESTIONS[0]))
    before = threading.active_count()
    stream = loaded.stream(pictures[0], QUESTIONS[0], max_new_tokens=60)
    next(stream)
    stream.close()
    deadline = time.monotonic() + 30
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_bytes_of_a_file_are_read_as_the_file(pixdlm: PixDLM, pictures: list[Path]) -> None:
    expected = pixdlm.segment(pictures[0], QUESTIONS[1])
    content = pictures[0].read_bytes()
    assert np.array_equal(pixdlm.segment(content, QUESTIONS[1]).masks, expected.masks)
    with pytest.raises(UserError, match="a picture of 10 bytes: damaged or no picture"):
        pixdlm.segment(b"no picture", QUESTIONS[1])
    with pytest.raises(UserError, match="a picture of 0 bytes: damaged or no picture .the file is empty"):
        pixdlm.segment(b"", QUESTIONS[1])


def test_an_answer_knows_its_picture_and_question(pixdlm: PixDLM, pictures: list[Path]) -> None:
    for answer, picture in zip(pixdlm.segment(pictures, QUESTIONS), pictures, strict=True):
        assert answer.image == picture and answer.to_pil().size == Image.open(picture).size
    features = pixdlm.encode(pictures)
    assert [one.question for one in pixdlm.segment(features, QUESTIONS)] == QUESTIONS
    assert pixdlm.segment(features, QUESTIONS)[1].image == pictures[1]
