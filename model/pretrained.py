"""A model from any folder that holds one: this project's, the published one, or a training checkpoint.

Whatever the folder, every tensor is accounted for by name: a missing, surplus or misshapen one is an
error. What a published folder does not hold (CLIP, SAM2, the fusion) comes from files of its own.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import LlamaConfig

from model.config import PixDLMConfig, release_config
from model.fusion import Fusion
from model.lora import LORA_MARK, lora_settings, part_of
from model.pixdlm import PixDLMForCausalLM
from model.weights import (
    ROTARY_DERIVED,
    TensorFile,
    clip_tensors,
    first_line,
    holds_weights,
    read_tensors,
    rename_published,
    sam2_tensors,
    stream_tensors,
    weight_files,
)
from utils.errors import UserError
from utils.zero import is_zero_folder, zero_tensors

log = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
PUBLISHED_CLASS = "PixDLMForCausalLM"  # in `architectures`; its model_type is "llava", as LLaVA's own
ARCHITECTURE_KEY = "pixdlm"  # in a published config.json that this project wrote: the whole PixDLMConfig
PUBLISHED_LORA_ALPHA = 16.0  # RELEASE.md, "Files"; a checkpoint does not hold it
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
# Where a published folder has the files that it lacks, unless they are named.
CLIP_PLACES = ("clip", "../clip")
SAM2_PLACES = ("sam2.pt", "../sam2/sam2.1_hiera_large.pt")
FUSION_PLACES = ("align_stages.bin",)
NEUTRAL = "neutral"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download")
# Auto classes hand these on; config.json is read anew, and no remote code is ever run.
PASSED_BY_AUTO_CLASSES = ("config", "trust_remote_code", "adapter_kwargs", "code_revision", "_from_auto",
                          "_commit_hash", "subfolder")  # fmt: skip
LORA_KEY = "lora"  # in the metadata of a file of parts: settings of the adapters in it


@dataclass(frozen=True)
class Backbones:
    """What a published folder does not hold; None looks beside it.

    Args:
        clip: a transformers folder or file, or an open_clip file.
        sam2: SAM2's `.pt`.
        fusion: a file of `align_stages` tensors, or "neutral" to run without: the stitches then do
            nothing, and every result is marked as not the published model.
    """

    clip: str | Path | None = None
    sam2: str | Path | None = None
    fusion: str | Path | None = None


def load_pretrained(
    folder: Path | str,
    dtype: torch.dtype = torch.float32,
    backbones: Backbones = Backbones(),  # noqa: B008 (frozen)
) -> PixDLMForCausalLM:
    """The model of a folder, on the CPU, in evaluation mode.

    Args:
        folder: this project's own; the published merged one; a ZeRO-to-fp32 result, in one file or in
            shards; or a DeepSpeed checkpoint.
        dtype: of the weights; buffers keep theirs.
        backbones: files that a published folder does not hold.

    Raises:
        UserError: the folder holds no model, or a tensor is missing, surplus or misshapen.
    """
    folder = Path(folder)
    config = load_config(folder)
    published = is_published(folder)
    if published:
        config = replace_config(config, neutral_fusion=uses_neutral_fusion(folder, config, backbones))
    with init_empty_weights(include_buffers=False):
        model = PixDLMForCausalLM(config)
    tensors = with_backbones(named_tensors(folder, config), folder, config, backbones, published)
    fill(model, tensors, dtype, str(folder))
    return model.eval()


def from_pretrained(folder: str | Path, options: dict[str, Any]) -> PixDLMForCausalLM:
    """What `PixDLMForCausalLM.from_pretrained` does; code that lies in a folder is never run."""
    options = {name: value for name, value in options.items() if name not in PASSED_BY_AUTO_CLASSES}
    backbones = Backbones(*(options.pop(name, None) for name in ("clip", "sam2", "fusion")))
    old, dtype = options.pop("torch_dtype", None), options.pop("dtype", None)
    folder = local_folder(folder, options)
    if options:
        raise TypeError(f"from_pretrained: unknown options {', '.join(options)}")
    dtype = dtype or old or torch.float32
    return load_pretrained(folder, getattr(torch, dtype) if isinstance(dtype, str) else dtype, backbones)


def local_folder(folder: str | Path, options: dict[str, Any]) -> Path:
    """The folder itself, or what the hub has under that name, fetched; the hub's options are taken out."""
    hub = {name: options.pop(name) for name in HUB_OPTIONS if name in options}
    path = Path(folder)
    if path.is_dir() or not HUB_ID.fullmatch(str(folder)):
        return path
    try:
        return Path(snapshot_download(str(folder), **{n: v for n, v in hub.items() if v is not None}))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no such folder, and the hub does not give it ({first_line(error)})") from error


# -- configuration -----------------------------------------------------------------------------
def load_config(folder: Path) -> PixDLMConfig:
    """The architecture of a model folder, LoRA included.

    Raises:
        UserError: no such folder, no configuration in it, or one of another model.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such model folder; train one with train.sh or use PixDLM/mini")
    fields = config_fields(folder)
    if fields is None:
        if is_zero_folder(folder) or not holds_weights(folder) or not is_published(folder):
            raise UserError(f"{folder}: no {CONFIG_FILE} in it, so it is no model folder")
        config = release_config()
    elif fields.get("model_type") == PixDLMConfig.model_type:
        return _from_fields(fields, folder)
    else:
        config = _from_published(fields, folder)
    return replace_config(config, lora=lora_of(folder))


def config_fields(folder: Path) -> dict[str, Any] | None:
    """`config.json` of the folder, or for a training checkpoint of the one that it lies in; None without."""
    places = [folder, folder.parent, folder.parent.parent] if is_zero_folder(folder) else [folder]
    file = next((place / CONFIG_FILE for place in places if (place / CONFIG_FILE).is_file()), None)
    if file is None:
        return None
    try:
        fields = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{file}: not JSON ({error})") from error
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
    try:
        return PixDLMConfig.from_dict(fields)
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder / CONFIG_FILE}: {error}") from error


def _from_published(fields: dict[str, Any], folder: Path) -> PixDLMConfig:
    """`release` in the Llama's dimensions that the published fields give; the rest they do not tell."""
    if ARCHITECTURE_KEY in fields:
        return _from_fields(fields[ARCHITECTURE_KEY], folder)
    config = release_config().to_dict()
    llama = {name: fields[name] for name in LLAMA_FIELDS if name in fields}
    config["text_config"] = LlamaConfig(**{**config["text_config"], **llama})
    return _from_fields({**config, "pixel_embed_width": llama.get("hidden_size", 4096)}, folder)


def replace_config(config: PixDLMConfig, **changes: Any) -> PixDLMConfig:
    """A copy with some fields changed, checked as a whole."""
    return PixDLMConfig.from_dict({**config.to_dict(), **changes})


def is_published(folder: Path) -> bool:
    """Whether the folder's tensors have the published names."""
    fields = config_fields(folder)
    if fields is not None:
        return fields.get("model_type") != PixDLMConfig.model_type
    if is_zero_folder(folder):
        return False
    return any(name.startswith(("model.", "lm_head.", "base_model.")) for _, name in weight_names(folder))


def weight_names(folder: Path) -> Iterator[tuple[TensorFile, str]]:
    """Every tensor's name, and the file to read it from."""
    for path in weight_files(folder):
        file = TensorFile(path)
        yield from ((file, name) for name in file)


def lora_of(folder: Path) -> dict[str, Any] | None:
    """Settings of the adapters in a published training checkpoint: rank and targets from its tensors."""
    if is_zero_folder(folder):
        return None
    ranks, targets = set(), set()
    for file, name in weight_names(folder):
        found = re.search(r"\.(\w+)\.lora_A\.", name)
        if found:
            ranks.add(len(file[name]))
            targets.add(found[1])
    if not ranks:
        return None
    if len(ranks) > 1:
        raise UserError(f"{folder}: adapters of ranks {sorted(ranks)}; one rank is expected")
    log.info("%s: LoRA of rank %d, alpha %g as published", folder, *ranks, PUBLISHED_LORA_ALPHA)
    return lora_settings(ranks.pop(), PUBLISHED_LORA_ALPHA, 0.0, sorted(targets))


# -- tensors -----------------------------------------------------------------------------------
def named_tensors(folder: Path, config: PixDLMConfig) -> Iterator[tuple[str, Tensor]]:
    """The folder's tensors under our names; what is derived is passed over, a name that no rule knows stays."""
    skipped = 0
    zero = is_zero_folder(folder)
    source = zero_tensors(folder) if zero else ((n, t) for _, n, t in stream_tensors(weight_files(folder)))
    for name, tensor in source:
        if ROTARY_DERIVED.search(name):
            skipped += 1
            continue
        with contextlib.suppress(KeyError):
            name = under_adapter(rename_published(name), config)
        yield name, tensor
    if skipped:
        log.info("%s: %d derived tensors passed over (rotary_emb.inv_freq)", folder, skipped)


def under_adapter(name: str, config: PixDLMConfig) -> str:
    """The name of a matrix that LoRA adapts: newer peft calls it `q_proj.base_layer.weight`, older `q_proj.weight`."""
    if not config.lora or LORA_MARK in name or ".base_layer." in name or not name.startswith("language_model."):
        return name
    owner, _, leaf = name.rpartition(".")
    return f"{owner}.base_layer.{leaf}" if owner.rpartition(".")[2] in config.lora["targets"] else name


def with_backbones(
    tensors: Iterable[tuple[str, Tensor]],
    folder: Path,
    config: PixDLMConfig,
    backbones: Backbones,
    published: bool,
) -> Iterator[tuple[str, Tensor]]:
    """A folder's tensors, and those of CLIP and SAM2 (of a published one the fusion too) that it does not hold."""
    parts = set()
    for name, tensor in tensors:
        parts.add(name.partition(".")[0])
        yield name, tensor
    if "semantic_path" not in parts:
        clip = find(backbones.clip, folder, CLIP_PLACES, "CLIP", "--clip")
        yield from ((f"semantic_path.clip.{name}", tensor) for name, tensor in clip_tensors(clip, config).items())
    if "pixel_path" not in parts:
        sam2 = find(backbones.sam2, folder, SAM2_PLACES, "SAM2", "--sam2")
        yield from ((f"pixel_path.encoder.{name}", tensor) for name, tensor in sam2_tensors(sam2).items())
    if published and "fusion" not in parts:
        yield from fusion_tensors(folder, config, backbones)


def find(named: str | Path | None, folder: Path, places: tuple[str, ...], what: str, option: str) -> Path:
    """The file or folder of a backbone: the one that was named, or where it is looked for.

    Raises:
        UserError: it is not there.
    """
    candidates = [Path(named)] if named else [folder / place for place in places]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    looked = " or ".join(str(candidate) for candidate in candidates)
    raise UserError(
        f"{folder}: holds no {what}, and there is no {looked}; name it with {option}, "
        "or fetch it with `python -m utils.download --what clip sam2`"
    )


def fusion_file(folder: Path, backbones: Backbones) -> Path | None:
    """The file of fusion weights that was named or lies in the folder."""
    if backbones.fusion is not None and str(backbones.fusion) != NEUTRAL:
        return find(backbones.fusion, folder, (), "fusion", "--fusion")
    return next((folder / place for place in FUSION_PLACES if (folder / place).is_file()), None)


def uses_neutral_fusion(folder: Path, config: PixDLMConfig, backbones: Backbones) -> bool:
    """Whether a published folder runs with the neutral fusion; decided before anything is built.

    Raises:
        UserError: there are no fusion weights and the neutral one was not asked for.
    """
    if str(backbones.fusion) == NEUTRAL:
        return True
    if fusion_file(folder, backbones) is not None or _holds_fusion(folder):
        return config.neutral_fusion
    raise UserError(
        f"{folder}: no fusion weights. The published checkpoint has no align_stages tensors and no file of them was "
        "published; the published loader then runs with a randomly drawn last fusion layer, so its numbers cannot be "
        "reproduced. Either name a file of them with --fusion FILE, or run with --fusion neutral (CLIP alone, every "
        "result marked as not the published model), or train them with `bash train.sh release --train-only fusion`"
    )


def _holds_fusion(folder: Path) -> bool:
    return any("align_stages" in name for _, name in weight_names(folder))


def fusion_tensors(folder: Path, config: PixDLMConfig, backbones: Backbones) -> Iterator[tuple[str, Tensor]]:
    """The fusion's weights from their file, or the neutral ones."""
    if config.neutral_fusion and str(backbones.fusion) == NEUTRAL:
        log.warning("%s: neutral fusion. This is not the published model; results are marked", folder)
        with init_empty_weights(include_buffers=False):
            channels = PixDLMForCausalLM(config).pixel_path.channels
        yield from ((f"fusion.{name}", tensor) for name, tensor in Fusion(config, channels).state_dict().items())
        return
    path = fusion_file(folder, backbones)
    try:
        yield from ((rename_published(name), tensor) for name, tensor in read_tensors(path).items())
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]!r} is no align_stages tensor") from error


def fill(model: PixDLMForCausalLM, tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype, source: str) -> None:
    """Put tensors into a model whose parameters are on the meta device, one after the other, strictly.

    Raises:
        UserError: listing all that are missing, surplus, doubled or misshapen.
    """
    own = model.state_dict(keep_vars=True)
    seen: set[str] = set()
    problems = []
    for name, tensor in tensors:
        if name not in own:
            problems.append(f"surplus: {name}")
        elif name in seen:
            problems.append(f"twice: {name}")
        elif own[name].shape != tensor.shape:
            problems.append(f"misshapen: {name} is {tuple(tensor.shape)}, expected {tuple(own[name].shape)}")
        elif own[name].is_meta:
            set_module_tensor_to_device(model, name, "cpu", value=tensor.to(dtype, copy=True), dtype=dtype)
        else:
            own[name].copy_(tensor)
        seen.add(name)
    problems += [f"missing: {name}" for name in own if name not in seen]
    if problems:
        raise UserError(f"{source} does not fit this configuration:\n  " + "\n  ".join(problems))


def load_parts(model: PixDLMForCausalLM, path: Path) -> set[str]:
    """Copy a file of parts (`extract.py`), or of published `align_stages`, into a model.

    Returns:
        the parts that were read, every tensor of each

    Raises:
        UserError: a tensor has no place or another shape, or one of a part is missing.
    """
    file, own = TensorFile(path), model.state_dict()
    problems, seen = [], set()
    for published in file:
        with contextlib.suppress(KeyError):
            name = rename_published(published)
            if name in own and own[name].shape == file[published].shape:
                own[name].copy_(file[published])
                seen.add(name)
                continue
        shape = tuple(file[published].shape)
        problems.append(f"does not fit: {published} {shape}")
    parts = {part_of(name) for name in seen}
    problems += [f"missing: {name}" for name in own if part_of(name) in parts and name not in seen]
    if problems:
        raise UserError(f"{path} does not fit this model:\n  " + "\n  ".join(problems))
    log.info("%s: %d tensors of %s", path, len(seen), ", ".join(sorted(parts)))
    return parts
