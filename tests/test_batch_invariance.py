"""A question's masks are the same whatever stands beside it: evaluation, generation and `segment` at batch 1, 4, 8."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from model.config import FLAGS, PixDLMConfig
from model.inputs.images import Picture
from model.language.tokens import SEG_TOKENS, PixTokenizer
from model.pixdlm import PixDLMForCausalLM
from model.presets import mini_config, native_config, release_config
from model.processor import PixDLMProcessor
from model.segmenter import PixDLM
from utils.datasets.base import Sample
from utils.datasets.registry import load_dataset
from utils.evaluation.predict import Loading, predict
from utils.evaluation.predictions import Record
from utils.evaluation.protocols import Protocol

Make = Callable[..., Any]
CONFIGURATIONS = {"release": release_config(), "native": native_config(), "mini": mini_config()}
# Of very different lengths, so that most of a batch's rows are padding.
QUESTIONS = [f"{'Which of the many things that can be seen here and there ' * (i % 4)}is number {i}?" for i in range(8)]


@pytest.fixture(params=CONFIGURATIONS)
def model(request: pytest.FixtureRequest, tiny_config: PixDLMConfig, tokenizer: PixTokenizer) -> PixDLMForCausalLM:
    """Tiny, with a configuration's switches."""
    for switch in (*FLAGS, "pixel_input", "geometry", "clip_positions"):
        setattr(tiny_config, switch, getattr(CONFIGURATIONS[request.param], switch))
    torch.manual_seed(3)
    return PixDLMForCausalLM(tiny_config).eval()


@pytest.fixture
def samples(make_drseg: Make, make_record: Make) -> list[Sample]:
    return load_dataset(make_drseg([make_record(f"r{i}", questions=[q]) for i, q in enumerate(QUESTIONS)]), "test")


def masks_of(model: PixDLMForCausalLM, tokenizer: PixTokenizer, samples: list[Sample], size: int) -> np.ndarray:
    found: list[Record] = []
    predict(model, tokenizer, samples, Protocol(), Loading(pass_size=size), found.extend)
    masks = {one["id"]: coco.decode(one["masks"][0]) for one in found}
    return np.stack([masks[sample.key] for sample in samples])


def test_evaluation(model: PixDLMForCausalLM, tokenizer: PixTokenizer, samples: list[Sample]) -> None:
    alone = masks_of(model, tokenizer, samples, 1)
    assert alone.any() and not alone.all() and len({mask.tobytes() for mask in alone}) > 1
    for size in (4, 8):
        assert (masks_of(model, tokenizer, samples, size) != alone).sum() <= 2  # pixels at the border of float32


def test_segment_and_what_it_generates(
    model: PixDLMForCausalLM, tokenizer: PixTokenizer, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    pixdlm = PixDLM(model, PixDLMProcessor(model.config, tokenizer))
    picture = Picture(samples[0].image_path)
    written = [pixdlm.segment(picture, question, 6).text for question in QUESTIONS]
    for size in (4, 8):
        assert [one.text for one in pixdlm.segment(picture, QUESTIONS[:size], 6)] == written[:size]
    monkeypatch.setattr(PixDLMForCausalLM, "generate_answers", lambda _, batch, *__: [tokenizer.seg_ids] * len(batch))
    alone = [pixdlm.segment(picture, question) for question in QUESTIONS]
    assert all(one.masks.shape == (1, 60, 80) for one in alone) and len(SEG_TOKENS) == len(tokenizer.seg_ids)
    for size in (4, 8):
        for together, expected in zip(pixdlm.segment(picture, QUESTIONS[:size]), alone, strict=False):
            assert (together.masks != expected.masks).sum() <= 2
            assert together.scores == pytest.approx(expected.scores, abs=1e-6)
