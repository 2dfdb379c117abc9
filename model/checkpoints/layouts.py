"""Folders of weights: their kind, architecture and tensors, under our names.

Known kinds are this project's own folders, the published merged one, a ZeRO-to-fp32 result in one file or in
shards, and a DeepSpeed checkpoint.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import LlamaConfig

from model.checkpoints.deepspeed_files import is_zero_folder, step_folder, zero_shapes, zero_tensors
from model.checkpoints.tensor_names import ROTARY_DERIVED, to_own_name
from model.checkpoints.tensors import TensorFile, holds_weights, stream_tensors, weight_files
from model.config import LLAMA_DERIVED, PixDLMConfig
from model.lora import lora_settings
from model.presets import release_config
from utils.runtime.errors import UserError, config_errors_as_user_error, first_line
from utils.runtime.json_files import read_json
from utils.runtime.paths import entries, exists, is_file, is_folder

log = logging.getLogger(__name__)

TRAINING_FILE = "training.json"
CONFIG_FILE = "config.json"
PUBLISHED_CLASS = "PixDLMForCausalLM"  # in `architectures`; its model_type is "llava", as LLaVA's own
ARCHITECTURE_KEY = "pixdlm"  # in a published config.json that this project wrote: the whole PixDLMConfig
PUBLISHED_LORA_ALPHA = 16.0  # as published (README.md here, "Files"); a checkpoint does not hold it
ATTENTION_FIELDS = ("attn_implementation", "_attn_implementation")
# Of a repository on the hub: the files that are read, by name, since the hub's `*` takes in folders too.
WEIGHTS = ("model.safetensors", "model-?????-of-?????.safetensors", "model.safetensors.index.json")
PICKLES = ("pytorch_model.bin", "pytorch_model-?????-of-?????.bin", "pytorch_model.bin.index.json")
CLIP_WEIGHTS = tuple(f"clip/{name}" for name in WEIGHTS)
HUB_FILES = ("config.json", "tokenizer.model", TRAINING_FILE, *WEIGHTS, "sam2.pt", "align_stages.bin", *CLIP_WEIGHTS,
             "clip/config.json")  # fmt: skip
LLAMA_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
)
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download")


def local_folder(folder: str | Path, options: dict[str, Any]) -> Path:
    """The folder itself, or a snapshot of the hub's repository of that name.

    The hub's options are removed from `options`.

    Raises:
        UserError: neither exists.
    """
    hub = {name: options.pop(name) for name in HUB_OPTIONS if name in options}
    path = Path(folder)
    if exists(path) or not HUB_ID.fullmatch(str(folder)):
        return path
    hub = {name: value for name, value in hub.items() if value is not None}
    try:
        fetched = Path(snapshot_download(str(folder), allow_patterns=list(HUB_FILES), **hub))
        pickles = [] if holds_weights(fetched) else list(PICKLES)  # only where there are no safetensors
        if is_folder(fetched / "clip") and not holds_weights(fetched / "clip"):
            pickles += [f"clip/{name}" for name in PICKLES]
        if pickles:
            fetched = Path(snapshot_download(str(folder), allow_patterns=[*HUB_FILES, *pickles], **hub))
        return fetched
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no such folder, and the hub does not give it ({first_line(error)})") from error


def find_beside_weights(folder: Path, name: str) -> Path | None:
    """The file `name` in the weights' folder, for a DeepSpeed checkpoint in up to two parents too; None without."""
    folders = [folder, folder.parent, folder.parent.parent] if is_zero_folder(folder) else [folder]
    return next((one / name for one in folders if is_file(one / name)), None)


# -- architecture ------------------------------------------------------------------------------
def load_config(folder: Path) -> PixDLMConfig:
    """The architecture of a model folder, LoRA included.

    Raises:
        UserError: no such folder, no configuration in it, or one of another model.
    """
    if not is_folder(folder):
        raise UserError(
            f"{folder}: no such model folder; train one with train.sh, use PixDLM/mini, or fetch the published one "
            "with `python -m utils.download --what pixdlm clip sam2`"
        )
    fields = config_fields(folder)
    if fields is None:
        if not (is_zero_folder(folder) or holds_weights(folder)) or not is_published(folder):
            raise UserError(f"{folder}: no {CONFIG_FILE} in it, so it is no model folder")
        config = release_config()
    elif fields.get("model_type") == PixDLMConfig.model_type:
        return _from_fields(fields, folder)
    else:
        config = _from_published(fields, folder)
    return replace_config(config, lora=lora_of(folder, config.lora))


def config_fields(folder: Path) -> dict[str, Any] | None:
    """`config.json` of the folder; None without.

    Raises:
        UserError: it may not be read, is not JSON, or of another model.
    """
    file = find_beside_weights(folder, CONFIG_FILE)
    if file is None:
        return None
    fields = read_json(file)
    known = isinstance(fields, dict) and (
        fields.get("model_type") == PixDLMConfig.model_type or PUBLISHED_CLASS in (fields.get("architectures") or [])
    )
    if not known:
        kind = fields.get("model_type") if isinstance(fields, dict) else type(fields).__name__
        raise UserError(
            f"{file}: model_type is {kind!r}, expected {PixDLMConfig.model_type!r} or "
            f"architectures with {PUBLISHED_CLASS}"
        )
    return fields


def _from_fields(fields: dict[str, Any], folder: Path) -> PixDLMConfig:
    # How a model attends is the machine's affair; transformers would fetch a kernel of that name from the hub.
    fields = {name: value for name, value in fields.items() if name not in ATTENTION_FIELDS}
    with config_errors_as_user_error(f"{folder / CONFIG_FILE}"):
        return PixDLMConfig.from_dict(fields)


def _from_published(fields: dict[str, Any], folder: Path) -> PixDLMConfig:
    """`release` with the Llama's dimensions from the published fields, which hold nothing else of use."""
    if ARCHITECTURE_KEY in fields:
        return _from_fields(fields[ARCHITECTURE_KEY], folder)
    if fields.get("rope_scaling"):
        raise UserError(f"{folder / CONFIG_FILE}: rope_scaling is {fields['rope_scaling']}, which is not supported")
    config = release_config().to_dict()
    llama = {name: fields[name] for name in LLAMA_FIELDS if name in fields}
    if "rope_theta" in fields:
        llama["rope_parameters"] = {"rope_type": "default", "rope_theta": fields["rope_theta"]}
    base = {name: value for name, value in config["text_config"].items() if name not in LLAMA_DERIVED}
    with config_errors_as_user_error(f"{folder / CONFIG_FILE}"):
        config["text_config"] = LlamaConfig(**{**base, **llama})
    return _from_fields({**config, "pixel_embed_width": config["text_config"].hidden_size}, folder)


def replace_config(config: PixDLMConfig, **changes: Any) -> PixDLMConfig:
    """A copy with some fields changed, checked as a whole."""
    return PixDLMConfig.from_dict({**config.to_dict(), **changes})


def lora_of(folder: Path, known: dict[str, Any] | None) -> dict[str, Any] | None:
    """Settings of the adapters in a published training checkpoint: `known` where given, else rank and targets
    from its tensors; None without adapters.

    Raises:
        UserError: its adapters are of several ranks.
    """
    ranks, targets = set(), set()
    for name, shape in tensor_shapes(folder).items():
        found = re.search(r"\.(\w+)\.lora_A\.", name)
        if found:
            ranks.add(shape[0])
            targets.add(found[1])
    if not ranks:
        return None
    if len(ranks) > 1:
        raise UserError(f"{folder}: adapters of ranks {sorted(ranks)}; one rank is expected")
    if known is not None:
        return known
    log.info("%s: LoRA of rank %d, alpha %g as published", folder, *ranks, PUBLISHED_LORA_ALPHA)
    return lora_settings(ranks.pop(), PUBLISHED_LORA_ALPHA, 0.0, sorted(targets))


# -- tensors -----------------------------------------------------------------------------------
def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name in the file and shape of every tensor; no tensor is read."""
    if is_zero_folder(folder):
        return {name: tuple(shape) for name, shape in zero_shapes(folder).items()}
    files = [TensorFile(path) for path in weight_files(folder)]
    return {name: file.shape(name) for file in files for name in file}


def folder_files(folder: Path) -> list[Path]:
    """The files that hold a folder's tensors."""
    if is_zero_folder(folder):
        return [path for path in entries(step_folder(folder)) if path.suffix == ".pt"]
    return weight_files(folder)


def is_published(folder: Path) -> bool:
    """Whether the folder is the published one, or a training checkpoint of the published code."""
    fields = config_fields(folder)
    if fields is not None:
        return fields.get("model_type") != PixDLMConfig.model_type
    return any(name.startswith(("model.", "lm_head.", "base_model.")) for name in tensor_shapes(folder))


def renamed_shapes(folder: Path, config: PixDLMConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The names and shapes of `renamed_tensors`; no tensor is read."""
    for name, shape in tensor_shapes(folder).items():
        if not ROTARY_DERIVED.search(name):
            yield to_own_name(name, config), shape


def renamed_tensors(folder: Path, config: PixDLMConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield the folder's tensors under our names; derived ones are skipped, unknown names are kept."""
    skipped = 0
    zero = is_zero_folder(folder)
    source = zero_tensors(folder) if zero else ((n, t) for _, n, t in stream_tensors(weight_files(folder)))
    for name, tensor in source:
        if ROTARY_DERIVED.search(name):
            skipped += 1
            continue
        yield to_own_name(name, config), tensor
    if skipped:
        log.info("%s: %d derived tensors skipped (rotary_emb.inv_freq)", folder, skipped)
