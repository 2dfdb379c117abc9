"""Model folders: `config.json`, `model.safetensors` and `tokenizer.model`, written whole or not at all."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from model.checkpoints.backbones import Backbones
from model.checkpoints.layouts import companion, load_config
from model.checkpoints.load import load_pretrained
from model.config import PixDLMConfig
from model.language.tokens import TOKENIZER_FILE, PixTokenizer
from model.pixdlm import PixDLMForCausalLM
from utils.runtime.errors import UserError
from utils.runtime.files import write_beside

log = logging.getLogger(__name__)

SHARD_SIZE = "2GB"  # a shard is copied as a whole when it is written
TRAINING_FILE = "training.json"


def save_model(
    folder: Path, model: PixDLMForCausalLM, tokenizer: PixTokenizer, state: dict[str, Tensor], training: dict
) -> None:
    """Write a folder that `load_model` takes.

    Args:
        folder: replaced when it exists.
        model: its configuration is saved.
        tokenizer: its SentencePiece file is copied.
        state: the tensors, on the CPU (gathered from all processes where they are sharded).
        training: settings and scores of the run, written to `training.json`.
    """
    with write_beside(folder) as beside:
        write_weights(beside, model.config, state)
        shutil.copyfile(tokenizer.path, beside / TOKENIZER_FILE)
        write_training(beside, training)


def write_weights(folder: Path, config: PixDLMConfig, state: dict[str, Tensor]) -> None:
    """`config.json`, and the tensors as safetensors, in shards where they are many."""
    config.save_pretrained(folder)
    save_torch_state_dict(state, folder, max_shard_size=SHARD_SIZE)


def write_training(folder: Path, training: dict[str, Any]) -> None:
    """The record of the run, which `read_training` reads."""
    (folder / TRAINING_FILE).write_text(json.dumps(training, indent=2) + "\n")


def load_model(
    folder: Path | str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    backbones: Backbones = Backbones(),  # noqa: B008 (frozen)
) -> tuple[PixDLMForCausalLM, PixTokenizer]:
    """Model and tokenizer of a folder, strictly: every tensor accounted for, in evaluation mode.

    Args:
        folder: of any kind that `model.checkpoints.load.load_pretrained` reads.
        device: of the model.
        dtype: of its weights.
        backbones: files that a published folder does not hold.

    Raises:
        UserError: the folder is no model folder, or its weights are damaged or do not fit; all
            missing, surplus and misshapen tensors are listed.
    """
    tokenizer, config = load_tokenizer(Path(folder))
    model = load_pretrained(folder, dtype, backbones, config=config)
    model.to(device).use_flash_attention()
    return model, tokenizer


def load_tokenizer(folder: Path) -> tuple[PixTokenizer, PixDLMConfig]:
    """The tokenizer of a folder, held against its configuration, and that.

    Raises:
        UserError: there is none, or it has another vocabulary.
    """
    config = load_config(folder)
    tokenizer = PixTokenizer(companion(folder, TOKENIZER_FILE) or folder, config.system_prompt)
    if len(tokenizer) != config.text_config.vocab_size:
        raise UserError(
            f"{tokenizer.path}: {len(tokenizer)} tokens, but config.json says {config.text_config.vocab_size}"
        )
    return tokenizer, config


def read_training(folder: Path) -> dict[str, Any]:
    """The record of the run that goes with a checkpoint, or nothing.

    Raises:
        UserError: it is damaged.
    """
    file = companion(folder, TRAINING_FILE)
    try:
        record = json.loads(file.read_text()) if file else {}
    except json.JSONDecodeError as error:
        raise UserError(f"{file}: not JSON ({error}); mend it or take it away") from error
    if not isinstance(record, dict):
        raise UserError(f"{file}: expected an object with the run's settings; mend it or take it away")
    return record
