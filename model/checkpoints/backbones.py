"""Weights that a published folder lacks: CLIP, SAM2 and the fusion, from separate files."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from model.checkpoints.layouts import HUB_ID, folder_files, local_folder, renamed_shapes, tensor_shapes
from model.checkpoints.tensor_names import (
    LLAVA_UNUSED,
    ROTARY_DERIVED,
    from_open_clip,
    from_published_name,
    from_transformers_clip,
    select_prefix,
)
from model.checkpoints.tensors import StrictLoad, TensorFile, fill_tensor, read_folder, read_tensors, weight_files
from model.config import PixDLMConfig
from model.fusion import Fusion
from model.lora import LORA_MARK
from model.semantic_path import resize_positions
from utils.runtime.errors import UserError
from utils.runtime.files import file_hash
from utils.runtime.paths import exists, is_file, is_folder

log = logging.getLogger(__name__)

# Default locations, relative to the model folder.
CLIP_PATHS = ("clip", "../clip")
SAM2_PATHS = ("sam2.pt", "../sam2/sam2.1_hiera_large.pt")
VOCABULARY_ROWS = ("model.embed_tokens.weight", "lm_head.weight")  # they get rows for the added tokens
FUSION_FILE = "align_stages.bin"
NEUTRAL = "neutral"
NEUTRAL_KEY = "neutral_fusion"  # in the metadata of a file of parts


@dataclass(frozen=True)
class Backbones:
    """Files for weights that a model folder lacks; None searches the default locations.

    Args:
        clip: a transformers folder or file, a hub id, or an open_clip file.
        sam2: SAM2's `.pt`.
        fusion: a file of `align_stages` tensors, or "neutral" to run without: the fusion then passes CLIP's
            tokens on unchanged, and every result is marked as not the published model.
    """

    clip: str | Path | None = None
    sam2: str | Path | None = None
    fusion: str | Path | None = None


def add_backbones(
    tensors: Iterable[tuple[str, Tensor]],
    folder: Path,
    config: PixDLMConfig,
    backbones: Backbones,
    channels: int,
    published: bool,
) -> Iterator[tuple[str, Tensor]]:
    """Yield a folder's tensors, then those of CLIP, SAM2 and (published folders only) the fusion that it lacks.

    Args:
        tensors: under our names.
        folder: their source.
        config: of the model.
        backbones: the user's files.
        channels: of SAM2's features, for a neutral fusion.
        published: whether to add a missing fusion.
    """
    parts = set()
    for name, tensor in tensors:
        parts.add(name.partition(".")[0])
        yield name, tensor
    if "semantic_path" not in parts:
        clip = find_backbone(backbones.clip, folder, CLIP_PATHS, "CLIP", "clip")
        yield from ((f"semantic_path.clip.{name}", tensor) for name, tensor in clip_tensors(clip, config).items())
    if "pixel_path" not in parts:
        sam2 = find_backbone(backbones.sam2, folder, SAM2_PATHS, "SAM2", "sam2")
        yield from ((f"pixel_path.encoder.{name}", tensor) for name, tensor in sam2_tensors(sam2).items())
    if published and "fusion" not in parts:
        yield from fusion_tensors(folder, config, backbones, channels)


def weight_hashes(folder: Path, config: PixDLMConfig, backbones: Backbones) -> dict[str, str]:
    """sha256 of every file that a model is loaded from, by file name; backbones under "clip/", "sam2/", "fusion/".

    Args:
        folder: of any kind that is loaded.
        config: of its model.
        backbones: the user's files for weights that it lacks.
    """
    files = {path.name: path for path in folder_files(folder)}
    parts = {name.partition(".")[0] for name, _ in renamed_shapes(folder, config)}
    if "semantic_path" not in parts:
        clip = find_backbone(backbones.clip, folder, CLIP_PATHS, "CLIP", "clip")
        files |= {f"clip/{path.name}": path for path in (weight_files(clip) if is_folder(clip) else [clip])}
    if "pixel_path" not in parts:
        sam2 = find_backbone(backbones.sam2, folder, SAM2_PATHS, "SAM2", "sam2")
        files[f"sam2/{sam2.name}"] = sam2
    fusion = Path(backbones.fusion or folder / FUSION_FILE)
    if "fusion" not in parts and is_file(fusion):
        files[f"fusion/{fusion.name}"] = fusion
    return {name: file_hash(path) for name, path in sorted(files.items())}


def find_backbone(named: str | Path | None, folder: Path, paths: tuple[str, ...], what: str, option: str) -> Path:
    """The file or folder of a backbone: the user's, or the first default location that exists.

    Raises:
        UserError: none exists.
    """
    if named and option == "clip" and not exists(named) and HUB_ID.fullmatch(str(named)):
        return local_folder(named, {})
    candidates = [Path(named)] if named else [folder / path for path in paths]
    for candidate in candidates:
        if exists(candidate):
            return candidate
    looked = " or ".join(str(candidate) for candidate in candidates)
    cure = f"name it with --{option}, or fetch it with `python -m utils.download --what {option}`"
    raise UserError(f"{folder}: holds no {what}, and there is no {looked}; {cure}")


def uses_neutral_fusion(folder: Path, config: PixDLMConfig, backbones: Backbones) -> bool:
    """Whether a published folder runs with the neutral fusion; decided before anything is built.

    Raises:
        UserError: there are no fusion weights and the neutral one was not asked for, or the folder has
            its own and others were named.
    """
    own = is_file(folder / FUSION_FILE) or any("align_stages" in name for name in tensor_shapes(folder))
    if own:
        if backbones.fusion is not None:
            raise UserError(f"{folder}: has fusion weights of its own; leave --fusion out, or take them away first")
        return config.neutral_fusion
    if backbones.fusion is None:
        raise UserError(
            f"{folder}: no fusion weights. The published checkpoint has no align_stages tensors and no file of them "
            "was published; the published loader then runs with a randomly drawn last fusion layer, so its numbers "
            "cannot be reproduced. Either name a file of them with --fusion FILE, or run with --fusion neutral (CLIP "
            "alone, every result marked as not the published model), or train them with `bash train.sh release "
            "--train-only fusion`"
        )
    if str(backbones.fusion) == NEUTRAL:
        return True
    if not is_file(backbones.fusion):
        raise UserError(f"--fusion {backbones.fusion}: no such file")
    return TensorFile(backbones.fusion).metadata().get(NEUTRAL_KEY) == "true"


def fusion_tensors(
    folder: Path, config: PixDLMConfig, backbones: Backbones, channels: int
) -> Iterator[tuple[str, Tensor]]:
    """The fusion's weights from the user's file or the folder's, or the neutral ones."""
    if str(backbones.fusion) == NEUTRAL:
        log.warning("%s: neutral fusion. This is not the published model; results are marked", folder)
        yield from ((f"fusion.{name}", tensor) for name, tensor in Fusion(config, channels).state_dict().items())
        return
    path = backbones.fusion or folder / FUSION_FILE
    for name, tensor in read_tensors(path).items():
        try:
            yield from_published_name(name), tensor
        except KeyError as error:
            raise UserError(f"{path}: {name!r} is no align_stages tensor") from error


@torch.no_grad()
def load_strict(module: nn.Module, state: dict[str, Tensor], source: str, dtype: torch.dtype = torch.float32) -> None:
    """Copy tensors into a module; every name and shape must match.

    Args:
        module: filled in place; its own types stay, parameters on the meta device become `dtype`.
        state: under the module's names.
        source: named in errors.
        dtype: see `module`.

    Raises:
        UserError: tensors are missing, surplus or misshapen; all of them are listed.
    """
    check = StrictLoad(module.state_dict(keep_vars=True), source)
    fitting = {name: tensor for name, tensor in state.items() if check.accepts(name, tensor.shape)}
    check.finish()
    for name, tensor in fitting.items():
        fill_tensor(module, name, check.own[name], tensor, dtype)


def load_sam2(encoder: nn.Module, path: Path | str, dtype: torch.dtype = torch.float32) -> None:
    """SAM2's image encoder from its `.pt` file, strictly; `dtype` as in `load_strict`."""
    load_strict(encoder, sam2_tensors(path), f"{path} (SAM2 image encoder)", dtype)


def sam2_tensors(path: Path | str) -> dict[str, Tensor]:
    """The image encoder of SAM2's `.pt` file; its video parts are skipped."""
    state = read_tensors(path).get("model")
    if not isinstance(state, dict):
        raise UserError(f"{path}: no 'model' in it; expected SAM2's own .pt, such as sam2.1_hiera_large.pt")
    part = select_prefix(state, "image_encoder.")
    log.info("SAM2: %d tensors from %s; %d of its video part not used", len(part), path, len(state) - len(part))
    return part


def load_clip(clip: nn.Module, path: Path | str, config: PixDLMConfig, dtype: torch.dtype = torch.float32) -> None:
    """CLIP's vision model, strictly; see `clip_tensors`, and `load_strict` for `dtype`."""
    load_strict(clip, clip_tensors(path, config), f"{path} (CLIP vision model)", dtype)


def clip_tensors(path: Path | str, config: PixDLMConfig) -> dict[str, Tensor]:
    """CLIP's vision model from a transformers folder or file, or from an open_clip file.

    The position table is resized to the configuration's grid by its `clip_positions` rule.
    """
    path = Path(path)
    files = read_folder(path) if is_folder(path) else [(path, read_tensors(path))]
    state = {name: tensor for _, part in files for name, tensor in part.items()}
    open_clip = "visual.class_embedding" in state or "module.visual.class_embedding" in state
    state = from_open_clip(state) if open_clip else from_transformers_clip(state)
    table = "embeddings.position_embedding.weight"
    if table not in state:
        raise UserError(f"{path}: no CLIP vision model in it (no {table})")
    state[table] = resize_positions(state[table].float(), config.clip_grid, config.clip_positions)
    activation = config.vision_config.hidden_act
    log.info("CLIP: %d tensors from %s, activation %s", len(state), path, activation)
    if open_clip:  # its files do not tell the activation; the model's name does
        log.info("an open_clip model whose name has no -quickgelu in it has gelu; vision_config.hidden_act is to fit")
    return state


@torch.no_grad()
def load_llava(language_model: PreTrainedModel, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """The Llama of a LLaVA or Vicuna folder, shard by shard, into a model with added tokens.

    Rows of added tokens keep their initial values, which are drawn here where the model is on the meta device
    (its parameters then become `dtype`). LLaVA's projector, `image_newline` and CLIP are not used; the log counts
    them.
    """
    # peft keeps the matrix under an adapter as `base_layer`
    names = {name.replace(".base_layer.", "."): name for name in language_model.state_dict()}
    state = language_model.state_dict(keep_vars=True)
    own = {name: state[stored] for name, stored in names.items()}
    check, unused = StrictLoad(own, folder), 0
    for path, shard in read_folder(folder):
        for name, tensor in shard.items():
            if name.startswith(LLAVA_UNUSED) or ROTARY_DERIVED.search(name):
                unused += 1
            elif check.accepts(name, tensor.shape, f" in {path.name}", fewer_rows=name in VOCABULARY_ROWS):
                rows = own[name]
                if rows.is_meta and len(tensor) < len(rows):
                    drawn = torch.empty(rows.shape, dtype=dtype)
                    drawn.normal_(std=language_model.config.initializer_range)[: len(tensor)] = tensor
                    tensor = drawn
                if rows.is_meta:
                    fill_tensor(language_model, names[name], rows, tensor, dtype)
                else:
                    rows[: len(tensor)].copy_(tensor)
    check.finish(name for name in own if LORA_MARK not in name)
    log.info("Llama: %d tensors from %s", len(check.seen), folder)
    log.info("%s: %d tensors not used (projector, image_newline, CLIP): the projector starts fresh", folder, unused)
