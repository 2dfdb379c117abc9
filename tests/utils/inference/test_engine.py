"""utils.inference.engine: all questions about all pictures, in order, each picture encoded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

from model.language.decoding import Decoding
from model.language.tokens import PixTokenizer
from model.pixdlm import PixDLMForCausalLM
from model.processor import PixDLMProcessor
from model.segmenter import PixDLM
from utils.inference.engine import Answered, grouped, outcomes
from utils.inference.finish import Finisher, Wanted
from utils.inference.reading import ReadAhead, load
from utils.inference.sources import Failure, Question, Source
from utils.runtime.errors import UserError

QUESTIONS = ("Which car is red?", "Where is the bus?", "Which tree?")


@pytest.fixture
def pixdlm(tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, monkeypatch: pytest.MonkeyPatch) -> PixDLM:
    """A model that answers everything with one [SEG] group; what it has encoded and asked is in `seen`."""
    loaded = PixDLM(tiny_model, PixDLMProcessor(tiny_model.config, tokenizer))
    loaded.seen = {"encoded": [], "asked": []}
    encode = PixDLMForCausalLM.encode_images

    def encode_images(model: PixDLMForCausalLM, batch):
        loaded.seen["encoded"].append(len(batch.clip_pixels))
        return encode(model, batch)

    def generate(model: PixDLMForCausalLM, batch, *given) -> list[list[int]]:
        loaded.seen["asked"].append(len(batch))
        return [list(tokenizer.seg_ids)] * len(batch)

    monkeypatch.setattr(PixDLMForCausalLM, "encode_images", encode_images)
    monkeypatch.setattr(PixDLMForCausalLM, "generate_answers", generate)
    return loaded


@pytest.fixture
def sources(tmp_path: Path) -> list[Source]:
    """Three pictures with 1, 3 and 2 questions, and between the first ones a file that is none."""
    made = []
    for number, asked in enumerate((1, 3, 2)):
        noise = np.random.default_rng(number).integers(0, 256, (40 + number, 60, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.png")
        made.append(Source(tmp_path / f"{number}.png", tuple(map(Question, QUESTIONS[:asked]))))
    (tmp_path / "bad.png").write_bytes(b"bad")
    made.insert(1, Source(tmp_path / "bad.png", (Question("Which?"),)))
    return made


def run(pixdlm: PixDLM, sources: list[Source], batch_size: int, workers: int = 0, *files: str) -> list:
    with (
        Finisher(pixdlm.model.config, workers) as finisher,
        ReadAhead(sources, pixdlm.processor, 2, 4) as pictures,
    ):
        return list(outcomes(pixdlm, pictures, finisher, Wanted(frozenset(files)), batch_size, Decoding()))


def described(found: list) -> list[tuple[str, str]]:
    return [
        (Path(one.what).name, "failed") if isinstance(one, Failure) else (Path(one.loaded.name).name, one.question.text)
        for one in found
    ]


@pytest.mark.parametrize(
    ("batch_size", "encoded", "asked"), [(1, [1, 1, 1], [1] * 6), (2, [1, 1, 1], [1, 2, 1, 2]), (9, [3], [6])]
)
def test_all_is_answered_in_order_and_each_picture_encoded_once(
    pixdlm: PixDLM, sources: list[Source], batch_size: int, encoded: list[int], asked: list[int]
) -> None:
    expected = [("0.png", QUESTIONS[0]), ("bad.png", "failed"), *(("1.png", one) for one in QUESTIONS),
                *(("2.png", one) for one in QUESTIONS[:2])]  # fmt: skip
    found = run(pixdlm, sources, batch_size)
    assert described(found) == expected
    assert all(one.loaded.pixels is None for one in found if isinstance(one, Answered))  # which would fill the memory
    assert (pixdlm.seen["encoded"], pixdlm.seen["asked"]) == (encoded, asked)


def test_one_at_a_time_an_answer_is_that_of_segment_to_the_last_bit(pixdlm: PixDLM, sources: list[Source]) -> None:
    found = [one for one in run(pixdlm, sources, 1) if isinstance(one, Answered)]
    for one in found:
        expected = pixdlm.segment(one.loaded.name, one.question.text)
        entry = one.finished.entry
        assert entry["masks"][0]["rle"] == expected.rles[0] and entry["confidence"] == expected.union_score
        assert entry["masks"][0]["confidence"] == float(expected.scores[0])


def test_processes_finish_alike(pixdlm: PixDLM, sources: list[Source]) -> None:
    here, there = (run(pixdlm, sources, 9, workers, "mask", "overlay") for workers in (0, 1))
    assert described(here) == described(there)
    for one, other in zip(here, there, strict=True):
        if isinstance(one, Answered):
            assert one.finished == other.finished
    mask = coco.decode(here[0].finished.entry["rle"])
    file = Path(here[0].loaded.name).with_suffix(".mask")
    file.write_bytes(here[0].finished.files["mask"])
    assert np.array_equal(np.asarray(Image.open(file)), 255 * mask) and mask.any()
    assert here[0].finished.files["overlay"].startswith(b"\xff\xd8")


def test_an_answer_that_is_not_finite_fails_alone(
    pixdlm: PixDLM, sources: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = PixDLMForCausalLM.forward

    def spoilt(model: PixDLMForCausalLM, *given, **named):
        output = forward(model, *given, **named)
        output.mask_logits[2][0, 0, 0] = float("nan")
        return output

    monkeypatch.setattr(PixDLMForCausalLM, "forward", spoilt)
    found = run(pixdlm, sources, 9)
    (failure,) = (one for one in found if isinstance(one, Failure) and one.question)
    assert failure.question.text == QUESTIONS[1] and failure.error.startswith("the mask's logits are not finite")
    assert len(found) == 7


def test_a_picture_that_is_gone_when_it_is_painted_fails_alone(
    pixdlm: PixDLM, sources: list[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.inference.reading.DRAFT_PIXELS", 0)  # so that it is decoded again
    loaded = [load(source, pixdlm.processor) for source in sources]
    sources[2].path.unlink()
    with Finisher(pixdlm.model.config, 1) as finisher:
        found = list(outcomes(pixdlm, loaded, finisher, Wanted(frozenset({"overlay"})), 9, Decoding()))
    lost = [one for one in found if isinstance(one, Failure) and one.question]
    assert [one.what for one in lost] == [str(sources[2].path)] * 3 and lost[0].error == "no such picture"
    assert sum(isinstance(one, Answered) for one in found) == 3


def test_a_batch_that_does_not_fit_is_told(
    pixdlm: PixDLM, sources: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(PixDLMForCausalLM, "encode_images", full)
    with pytest.raises(UserError, match="too small for --batch-size 9 .CUDA out of memory"):
        run(pixdlm, sources, 9)


def test_groups_hold_so_many_questions_and_at_least_a_picture(pixdlm: PixDLM, sources: list[Source]) -> None:
    loaded = [load(source, pixdlm.processor) for source in sources]
    assert [len(one) for one in grouped(loaded, 4)] == [3, 1]
    assert [len(one) for one in grouped(loaded, 1)] == [2, 1, 1]
    assert list(grouped([], 4)) == []


def test_a_process_that_dies_is_told(pixdlm: PixDLM, sources: list[Source]) -> None:
    with Finisher(pixdlm.model.config, 1) as finisher:
        (process,) = finisher.pool._processes.values()
        process.kill()
        loaded = [load(sources[0], pixdlm.processor)]
        with pytest.raises(UserError, match="a process that finishes masks died"):
            list(outcomes(pixdlm, loaded * 20, finisher, Wanted(), 1, Decoding()))


def test_a_picture_longer_than_a_jpeg_fails_alone_with_the_cure(
    pixdlm: PixDLM, sources: list[Source], tmp_path: Path
) -> None:
    Image.new("RGB", (70_000, 2)).save(tmp_path / "strip.png")
    strip = Source(tmp_path / "strip.png", (Question("Which?"),))
    failure, answer = run(pixdlm, [strip, sources[0]], 9, 0, "overlay")
    assert "70000 x 2 pixels cannot be written as JPEG" in failure.error and "--write mask,geojson" in failure.error
    assert isinstance(answer, Answered)
