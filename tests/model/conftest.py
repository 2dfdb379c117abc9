"""Fixtures of the model's tests: the golden model with its samples."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig

from model.config import PixDLMConfig, release_config
from model.pixdlm import PixDLMForCausalLM
from model.weights import load_strict, rename_published
from utils.collate import Batch, Collator
from utils.datasets import load_dataset
from utils.tokens import PixTokenizer


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden values; tests that need it are skipped where there is none."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "golden"
    if not (folder / "expected.json").is_file():
        pytest.skip(f"no golden values at {folder}")
    return folder


def golden_config() -> PixDLMConfig:
    """`release` in the dimensions of the README."""
    llama = LlamaConfig(
        vocab_size=32_015,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        rms_norm_eps=1e-5,
        pad_token_id=0,
    )
    clip = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=448,
        patch_size=14,
    )
    trunk = {
        "embed_dim": 16,
        "num_heads": 1,
        "stages": [1, 1, 3, 1],
        "global_att_blocks": [3],
        "window_pos_embed_bkg_spatial_size": [7, 7],
        "window_spec": [8, 4, 16, 8],
    }
    sizes = {"pixel_encoder": {"trunk": trunk, "neck": {}}, "pixel_embed_width": 64}
    return PixDLMConfig.from_dict({**release_config().to_dict(), "text_config": llama, "vision_config": clip, **sizes})


def golden_tensor(name: str, shape: list[int], salt: str) -> Tensor:
    values = np.random.RandomState(zlib.crc32((salt + name).encode()) & 0x7FFFFFFF).standard_normal(int(np.prod(shape)))
    if len(shape) >= 2:
        values = values / np.sqrt(np.prod(shape[1:]))
    else:
        values = 1 + 0.1 * values if name.endswith("weight") else 0.1 * values
    return torch.from_numpy(values.reshape(shape).astype(np.float32))


@pytest.fixture(scope="module")
def golden_model(golden: Path) -> PixDLMForCausalLM:
    """With all 542 tensors of the table, strictly."""
    table = json.loads((golden / "tensors.json").read_text())
    state = {rename_published(n): golden_tensor(n, shape, table["salt"]) for n, shape in table["tensors"].items()}
    assert len(state) == 542
    model = PixDLMForCausalLM(golden_config())
    load_strict(model, state, "tensors.json")
    return model.eval()


@pytest.fixture(scope="module")
def golden_collate(golden: Path, golden_model: PixDLMForCausalLM) -> Callable[..., Batch]:
    """A batch of the samples with these numbers."""
    samples = load_dataset(golden / "DRSeg", "test")
    collator = Collator(golden_model.config, PixTokenizer(golden / "tokenizer.model"))
    return lambda *numbers: collator([samples[number] for number in numbers])
