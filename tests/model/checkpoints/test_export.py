"""model.checkpoints.export: folders that load anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.checkpoints.export import card, save_published
from model.checkpoints.layouts import renamed_shapes, renamed_tensors
from model.checkpoints.load import load_pretrained
from model.language.tokens import PixTokenizer
from model.pixdlm import PixDLMForCausalLM
from tests.model.checkpoints.states import equal
from utils.runtime.errors import UserError


@pytest.mark.parametrize("kind", ["release_model", "tiny_model"])
def test_written_as_published_and_read(
    tmp_path: Path, tokenizer: PixTokenizer, request: pytest.FixtureRequest, kind: str
) -> None:
    model = request.getfixturevalue(kind)
    save_published(tmp_path / "out", model, tokenizer, {})
    state = torch.load(tmp_path / "out" / "pytorch_model.bin", weights_only=True)
    assert not any("vision_tower" in name for name in state)
    read = load_pretrained(PixDLMForCausalLM, tmp_path / "out")
    assert equal(read, model) and not read.training
    assert read.config.to_dict() | {"dtype": 0} == model.config.to_dict() | {"dtype": 0}
    shapes = dict(renamed_shapes(tmp_path / "out", model.config))
    tensors = dict(renamed_tensors(tmp_path / "out", model.config))
    assert shapes == {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def test_a_card_shows_the_metrics_of_the_data_set(tiny_model: PixDLMForCausalLM) -> None:
    training = {
        "validation": {"overall": {"count": 3, "ciou": 0.25}, "by_region": {"north": {"count": 1, "ciou": 0.5}}}
    }
    assert "| overall | 3 | 0.250 |" in card(tiny_model, training, without_backbones=False)


@pytest.mark.parametrize(
    "training",
    [
        {"settings": "x"},
        {"validation": "x"},
        {"validation": {"overall": {"count": 3, "giou": None}}},
        {"validation": {"overall": {"giou": 0.5}}},
    ],
    ids=str,
)
def test_a_record_of_a_run_that_is_odd_is_told(tiny_model: PixDLMForCausalLM, training: dict) -> None:
    with pytest.raises(UserError, match="training.json: its scores or settings are not as train.py writes them"):
        card(tiny_model, training, False)
