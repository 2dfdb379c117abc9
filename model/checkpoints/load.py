"""A model from any folder that holds one: this project's, the published one, or a training checkpoint.

Whatever the folder, every tensor is accounted for by name: a missing, surplus or misshapen one is an error, and
none keeps its random initialisation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from torch import Tensor
from transformers import PreTrainedModel

from model.checkpoints.backbones import NEUTRAL_KEY, Backbones, add_backbones, uses_neutral_fusion
from model.checkpoints.layouts import (
    TRAINING_FILE,
    find_beside_weights,
    is_published,
    load_config,
    local_folder,
    renamed_tensors,
    replace_config,
)
from model.checkpoints.tensor_names import to_own_name
from model.checkpoints.tensors import StrictLoad, TensorFile, fill_tensor
from model.config import PixDLMConfig
from model.language.tokens import TOKENIZER_FILE, PixTokenizer
from model.lora import merge_lora
from model.parts import part_of
from model.quantization import LayerQuantizer, check_load_in, mark_quantized
from utils.runtime.errors import UserError, config_errors_as_user_error
from utils.runtime.json_files import parse_json, read_json

log = logging.getLogger(__name__)

# Arguments of the Auto classes that are ignored: config.json is read again, and remote code is never run.
PASSED_BY_AUTO_CLASSES = ("config", "trust_remote_code", "adapter_kwargs", "code_revision", "_from_auto",
                          "_commit_hash")  # fmt: skip
LORA_KEY = "lora"  # in the metadata of a file of parts: settings of the adapters in it

Tensors = Iterable[tuple[str, Tensor]]
Model = TypeVar("Model", bound=PreTrainedModel)


def load_pretrained(
    model_class: type[Model],
    folder: Path | str,
    dtype: torch.dtype = torch.float32,
    backbones: Backbones = Backbones(),  # noqa: B008 (frozen)
    progress: Callable[[Tensors], Tensors] = iter,
    config: PixDLMConfig | None = None,
    load_in: str | None = None,
    device: torch.device | str = "cpu",
) -> Model:
    """Load the model of a folder, on the CPU, in evaluation mode.

    Args:
        model_class: `PixDLMForCausalLM` or a class derived from it.
        folder: this project's own; the published merged one; a ZeRO-to-fp32 result, in one file or in
            shards; or a DeepSpeed checkpoint.
        dtype: of the weights; buffers keep theirs.
        backbones: files that a published folder lacks.
        progress: wraps the tensors as they are read, e.g. in a tqdm bar.
        config: of the folder, if already read.
        load_in: quantise the language model's layers so, one of `model.quantization.LOAD_IN`; adapters are merged.
        device: where quantised matrices go; the rest of the model stays on the CPU.

    Raises:
        UserError: the folder holds no model, or a tensor is missing, surplus or misshapen.
    """
    folder, device = Path(folder), torch.device(device)
    check_load_in(load_in, device, dtype)
    config = config or load_config(folder)
    published = is_published(folder)
    if published:
        config = replace_config(config, neutral_fusion=uses_neutral_fusion(folder, config, backbones))
    elif backbones.fusion is not None:
        raise UserError(f"{folder}: --fusion is for a published folder, which lacks one; leave it out")
    with config_errors_as_user_error(f"{folder}: no model can be built like its configuration says"):
        with init_empty_weights(include_buffers=False):
            model = model_class(config)
    named = progress(renamed_tensors(folder, config))
    tensors = add_backbones(named, folder, config, backbones, model.pixel_path.channels, published)
    quantizer = LayerQuantizer(model.language_model, load_in, device, dtype) if load_in else None
    fill_parameters(model, tensors, dtype, folder, quantizer)
    if load_in:
        merge_adapters(model, folder)  # those outside the decoder layers
        mark_quantized(model, load_in)
    return model.eval()


def merge_adapters(model: PreTrainedModel, source: Path) -> None:
    """Merge what adapters the language model has, which its configuration then names no more.

    Raises:
        UserError: merged weights are not finite.
    """
    try:
        merge_lora(model.language_model)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error
    model.config.lora = None


def load_with_options(model_class: type[Model], folder: str | Path, options: dict[str, Any]) -> Model:
    """Implement `PixDLMForCausalLM.from_pretrained`; code in a folder is never run.

    Raises:
        TypeError: an option that is not known.
    """
    options = {name: value for name, value in options.items() if name not in PASSED_BY_AUTO_CLASSES}
    backbones = Backbones(*(options.pop(name, None) for name in ("clip", "sam2", "fusion")))
    old, dtype = options.pop("torch_dtype", None), options.pop("dtype", None)
    folder = local_folder(folder, options)
    unknown = [name for name, value in options.items() if value]
    if unknown:
        raise TypeError(f"from_pretrained: unknown options {', '.join(unknown)}")
    dtype = dtype or old or torch.float32
    if dtype == "auto":
        dtype = load_config(folder).dtype or torch.float32
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    return load_pretrained(model_class, folder, dtype, backbones)


def fill_parameters(
    model: PreTrainedModel,
    tensors: Tensors,
    dtype: torch.dtype,
    source: Path,
    quantizer: LayerQuantizer | None = None,
) -> None:
    """Fill a model whose parameters are on the meta device, strictly, one tensor at a time.

    What `quantizer` reads is handed to it in float32, so that a matrix is rounded once.

    Raises:
        UserError: listing all that are missing, surplus, duplicate or misshapen; or an adapter cannot be merged.
    """
    check = StrictLoad(model.state_dict(keep_vars=True), source)
    for name, tensor in tensors:
        if not check.accepts(name, tensor.shape):
            continue
        if quantizer is None or not quantizer.reads(name):
            fill_tensor(model, name, check.own[name], tensor, dtype)
            continue
        fill_tensor(model, name, check.own[name], tensor, torch.float32)
        try:
            quantizer.filled(name)
        except ValueError as error:
            raise UserError(f"{source}: {error}") from error
    check.finish()


# -- files of parts ----------------------------------------------------------------------------
def parts_settings(path: Path) -> tuple[dict[str, Any] | None, bool]:
    """Metadata of a file of parts: settings of its adapters or None, and whether its fusion is neutral.

    Raises:
        UserError: the settings are not JSON.
    """
    metadata, where = TensorFile(path).metadata(), f"{path}: its metadata {LORA_KEY!r}"
    adapters = parse_json(metadata.get(LORA_KEY, "null"), where, "write the file again with extract.py")
    return adapters, metadata.get(NEUTRAL_KEY) == "true"


@torch.no_grad()
def load_parts(model: PreTrainedModel, path: Path) -> set[str]:
    """Copy a file of parts (`extract.py`), or of published `align_stages`, into a model.

    Returns:
        the parts that were read, each completely

    Raises:
        UserError: a tensor is surplus or misshapen, a part is incomplete, or the file holds no tensor.
    """
    file = TensorFile(path)
    if not len(file):
        raise UserError(f"{path}: holds no tensor; name a file that extract.py wrote")
    check = StrictLoad(model.state_dict(), path)
    for stored_name in file:
        name = to_own_name(stored_name, model.config)
        if check.accepts(name, file.shape(stored_name)):
            check.own[name].copy_(file[stored_name])
    parts = {part_of(name) for name in check.seen & check.own.keys()}
    check.finish(name for name in check.own if part_of(name) in parts)
    log.info("%s: %d tensors of %s", path, len(check.seen), ", ".join(sorted(parts)))
    return parts


def load_tokenizer(folder: Path) -> tuple[PixTokenizer, PixDLMConfig]:
    """The tokenizer of a folder, checked against its configuration, and the configuration.

    Raises:
        UserError: there is none, or it has another vocabulary.
    """
    config = load_config(folder)
    tokenizer = PixTokenizer(find_beside_weights(folder, TOKENIZER_FILE) or folder, config.system_prompt)
    if len(tokenizer) != config.text_config.vocab_size:
        raise UserError(
            f"{tokenizer.path}: {len(tokenizer)} tokens, but config.json says {config.text_config.vocab_size}"
        )
    return tokenizer, config


def read_training(folder: Path) -> dict[str, Any]:
    """The record of the run that trained a checkpoint; {} without.

    Raises:
        UserError: it is damaged or may not be read.
    """
    file = find_beside_weights(folder, TRAINING_FILE)
    # not strict: paths among the settings may have bytes that are no UTF-8
    record = read_json(file, "mend it or take it away", strict=False) if file else {}
    if not isinstance(record, dict):
        raise UserError(f"{file}: expected an object with the run's settings; mend it or take it away")
    return record
