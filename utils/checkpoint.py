"""Model folders: `config.json`, `model.safetensors` and `tokenizer.model`, written whole or not at all."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from model.config import PixDLMConfig
from model.pixdlm import PixDLMForCausalLM
from model.weights import load_strict, read_folder
from utils.errors import UserError
from utils.files import write_beside
from utils.tokens import TOKENIZER_FILE, PixTokenizer

log = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
SHARD_SIZE = "5GB"


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
        model.config.save_pretrained(beside)
        save_torch_state_dict(state, beside, max_shard_size=SHARD_SIZE)
        shutil.copyfile(tokenizer.path, beside / TOKENIZER_FILE)
        (beside / "training.json").write_text(json.dumps(training, indent=2) + "\n")


def load_config(folder: Path) -> PixDLMConfig:
    """The architecture of a model folder.

    Raises:
        UserError: no such folder, no configuration in it, or one of another model.
    """
    file = folder / CONFIG_FILE
    if not folder.is_dir():
        raise UserError(f"{folder}: no such model folder; train one with train.sh or use PixDLM/mini")
    if not file.is_file():
        raise UserError(f"{folder}: no {CONFIG_FILE} in it, so it is no model folder")
    try:
        fields = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{file}: not JSON ({error})") from error
    if not isinstance(fields, dict) or fields.get("model_type") != PixDLMConfig.model_type:
        kind = fields.get("model_type") if isinstance(fields, dict) else type(fields).__name__
        raise UserError(f"{file}: model_type is {kind!r}, expected {PixDLMConfig.model_type!r}")
    try:
        return PixDLMConfig.from_dict(fields)
    except (ValueError, TypeError) as error:
        raise UserError(f"{file}: {error}") from error


def load_model(
    folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[PixDLMForCausalLM, PixTokenizer]:
    """Model and tokenizer of a folder, strictly: every tensor accounted for, in evaluation mode.

    Raises:
        UserError: the folder is no model folder, or its weights are damaged or do not fit; all
            missing, surplus and misshapen tensors are listed.
    """
    folder = Path(folder)
    config = load_config(folder)
    tokenizer = PixTokenizer(folder, config.system_prompt)
    if len(tokenizer) != config.text_config.vocab_size:
        raise UserError(
            f"{tokenizer.path}: {len(tokenizer)} tokens, but config.json says {config.text_config.vocab_size}"
        )
    state = {name: tensor for _, shard in read_folder(folder) for name, tensor in shard.items()}
    model = PixDLMForCausalLM(config).cast(dtype)
    load_strict(model, state, str(folder))
    model.to(device).use_flash_attention()
    return model.eval(), tokenizer
