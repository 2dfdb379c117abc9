"""Folders of model weights, made on the spot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.checkpoints.export import save_published
from model.checkpoints.save import save_model
from model.config import PixDLMConfig
from model.language.tokens import PixTokenizer
from model.pixdlm import PixDLMForCausalLM
from tests.model.checkpoints.states import RELEASE


@pytest.fixture
def release_model(tiny_config: PixDLMConfig) -> PixDLMForCausalLM:
    """Tiny, and everything `release`."""
    torch.manual_seed(0)
    return PixDLMForCausalLM(PixDLMConfig.from_dict({**tiny_config.to_dict(), **RELEASE})).eval()


@pytest.fixture
def published(tmp_path: Path, release_model: PixDLMForCausalLM, tokenizer: PixTokenizer) -> Path:
    """A published folder with clip/, sam2.pt and align_stages.bin in it."""
    save_published(tmp_path / "published", release_model, tokenizer, {})
    return tmp_path / "published"


@pytest.fixture
def folder(tmp_path: Path, tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer) -> Path:
    """A model folder."""
    save_model(tmp_path / "best", tiny_model, tokenizer, tiny_model.state_dict(), {"epoch": 3})
    return tmp_path / "best"
