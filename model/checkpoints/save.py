"""Model folders: `config.json`, `model.safetensors` and `tokenizer.model`, written atomically."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import save_torch_state_dict
from torch import Tensor

from model.checkpoints.layouts import TRAINING_FILE
from model.config import PixDLMConfig
from model.language.tokens import TOKENIZER_FILE, PixTokenizer
from model.pixdlm import PixDLMForCausalLM
from utils.runtime.files import atomic_folder, link_or_copy

SHARD_SIZE = "2GB"  # writing a shard takes a copy of it in memory


def save_model(
    folder: Path, model: PixDLMForCausalLM, tokenizer: PixTokenizer, state: dict[str, Tensor], training: dict
) -> None:
    """Write a folder that `model.pixdlm.load_model` loads.

    Args:
        folder: replaced when it exists.
        model: its configuration is saved.
        tokenizer: its SentencePiece file is copied.
        state: the tensors, on the CPU (gathered from all ranks where they are sharded).
        training: settings and scores of the run, written to `training.json`.
    """
    with atomic_folder(folder) as beside:
        write_weights(beside, model.config, state)
        shutil.copyfile(tokenizer.path, beside / TOKENIZER_FILE)
        write_training(beside, training)


def link_model(source: Path, folder: Path) -> None:
    """Let `folder` hold the files of `source`: the same ones where the file system has hard links, else copies.

    Neither folder's files are ever changed in place, so that one can be replaced without the other.
    """
    with atomic_folder(folder) as beside:
        for file in source.iterdir():
            if file.is_file():  # not the file system's own folder at a mount point
                link_or_copy(file, beside / file.name)


def write_weights(folder: Path, config: PixDLMConfig, state: dict[str, Tensor]) -> None:
    """Write `config.json` and the tensors, as safetensors in shards of SHARD_SIZE."""
    config.save_pretrained(folder)
    save_torch_state_dict(state, folder, max_shard_size=SHARD_SIZE)


def write_training(folder: Path, training: dict[str, Any]) -> None:
    """Write the record of the run, which `read_training` reads."""
    (folder / TRAINING_FILE).write_text(json.dumps(training, indent=2) + "\n")
