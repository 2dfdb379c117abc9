"""Foreign checkpoints in: every format that is read, strictly, and the one table of old names.

Nothing is unpickled beyond tensors: files are safetensors or read with `weights_only=True`.
"""

from __future__ import annotations

import json
import logging
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from model.config import PixDLMConfig
from model.semantic_path import resize_positions
from utils.runtime.errors import UserError

log = logging.getLogger(__name__)

# Names of the published checkpoint -> names here, by prefix; the first that fits is taken.
PUBLISHED_NAMES = (
    ("model.embed_tokens.", "language_model.model.embed_tokens."),
    ("model.layers.", "language_model.model.layers."),
    ("model.norm.", "language_model.model.norm."),
    ("lm_head.", "language_model.lm_head."),
    ("model.vision_tower.slow_vision_tower.", "pixel_path.encoder."),
    ("model.vision_tower.fast_vision_tower.vision_tower.vision_model.", "semantic_path.clip."),
    ("model.vision_tower.align_stages_latent.", "fusion.stitches."),
    ("model.vision_tower.align_stages.0.", "fusion.align."),
    ("model.mm_projector.", "projector."),
    ("model.prompt_encoder.", "mask_decoder.prompt_encoder."),
    ("model.mask_decoder.transformer.", "mask_decoder.transformers."),
    ("model.mask_decoder.output_upscaling.", "mask_decoder.upscaling."),
    ("model.mask_decoder.upsample_2x.", "mask_decoder.level_upsampling."),
    ("model.mask_decoder.output_hypernetworks_mlps.", "mask_decoder.hypernetworks."),
    ("model.mask_decoder.iou_prediction_head.", "mask_decoder.iou_head."),
    ("model.mask_decoder.pe1.", "mask_decoder.positions."),
    ("model.mask_decoder.", "mask_decoder."),
    ("model.sam_to_embed_conv.", "mask_decoder.pixel_neck.embed."),
    ("model.image_feature_neck.", "mask_decoder.pixel_neck.neck."),
    ("model.text_hidden_fcs.0.", "seg_projection.mlp."),
    ("model.seg_token_weights", "seg_projection.token_weights"),  # `native` alone: plain numbers as published
)
PUBLISHED_TRAINING = "base_model.model."  # what peft put before every name of a training checkpoint
OWN_PREFIXES = ("language_model.", "pixel_path.", "semantic_path.", "fusion.", "projector.", "seg_projection.",
                "mask_decoder.")  # fmt: skip
# In the published decoder alone: its feed-forward layers have names of their own.
PUBLISHED_MLP = ((".mlp.lin1.", ".mlp.layers.0."), (".mlp.lin2.", ".mlp.layers.1."))

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # or shards, with `.index.json` after the name
CLIP_DERIVED = re.compile(r"(^|\.)position_ids$")  # an arange, saved by old transformers
LLAVA_UNUSED = ("model.vision_tower.", "model.mm_projector.", "model.image_newline")
ROTARY_DERIVED = re.compile(r"\.rotary_emb\.inv_freq$")


def rename_published(name: str) -> str:
    """The name here of a tensor of the published checkpoint; one of ours stays as it is.

    A training checkpoint's prefix is taken off. LoRA's names stay peft's own.

    Raises:
        KeyError: no rule knows the name.
    """
    name = name.removeprefix(PUBLISHED_TRAINING)
    if name.startswith(OWN_PREFIXES):
        return name
    for old, new in PUBLISHED_NAMES:
        if name.startswith(old):
            renamed = new + name[len(old) :]
            break
    else:
        raise KeyError(name)
    return _replace_in_decoder(renamed, PUBLISHED_MLP)


def to_published(name: str) -> str:
    """The published name of a tensor of ours: `rename_published` backwards.

    Raises:
        KeyError: the published layout has no place for it.
    """
    # the longest of our prefixes that fits, since the table is ordered by theirs
    for old, new in sorted(PUBLISHED_NAMES, key=lambda pair: -len(pair[1])):
        if name.startswith(new):
            renamed = _replace_in_decoder(name, [(there, here) for here, there in PUBLISHED_MLP])
            return old + renamed[len(new) :]
    raise KeyError(name)


def _replace_in_decoder(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    if name.startswith("mask_decoder."):
        for old, new in pairs:
            name = name.replace(old, new)
    return name


class TensorFile(Mapping[str, Tensor]):
    """The tensors of one weight file, read when they are asked for and never unpickled beyond tensors.

    Tensors lie in the mapped file, whose pages count as memory while it is open; `reopen` gives them back.

    Raises:
        UserError: the file is missing, cut, or a pickle that asks for more than tensors.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"{path}: no such weight file; `python -m utils.download` fetches the published ones")
        self.reopen()

    def reopen(self) -> None:
        """Let go of what was read so far."""
        self.state = None
        with told_of(self.path):
            if self.path.suffix == ".safetensors":
                self.state = safe_open(self.path, framework="pt")
                self.names = list(self.state.keys())
                return
            self.state = torch.load(self.path, map_location="cpu", weights_only=True, mmap=_is_zip(self.path))
        if not isinstance(self.state, dict):
            raise UserError(f"{self.path}: holds a {type(self.state).__name__}, not a dictionary of tensors")
        self.names = list(self.state)

    def __getitem__(self, name: str) -> Tensor:
        if isinstance(self.state, dict):
            return self.state[name]
        with told_of(self.path):
            return self.state.get_tensor(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor that is not read for it; () for what is no tensor."""
        if isinstance(self.state, dict):
            return tuple(getattr(self.state[name], "shape", ()))
        return tuple(self.state.get_slice(name).get_shape())

    def metadata(self) -> dict[str, str]:
        """What a safetensors file says beside its tensors."""
        return {} if isinstance(self.state, dict) else self.state.metadata() or {}

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@contextmanager
def told_of(path: Path) -> Iterator[None]:
    """Turn what goes wrong in reading `path` into a UserError that names it, and the class a pickle asked for."""
    try:
        yield
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        wants = f"it asks for {asked[1]}" if asked else first_line(error)
        raise UserError(f"{path}: not read, for it is damaged or wants to run code ({wants})") from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise UserError(f"{path}: damaged or cut off ({first_line(error)}); fetch it again") from error


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """All tensors of one weight file, on the CPU; see `TensorFile` for what is raised."""
    return dict(TensorFile(path))


def stream_tensors(files: Iterable[Path], chunk: int = 1 << 30) -> Iterator[tuple[Path, str, Tensor]]:
    """Every tensor of some weight files, of which about `chunk` bytes are in memory at a time.

    A tensor is good until the next one is asked for; who keeps it copies it.
    """
    for path in files:
        file, read = TensorFile(path), 0
        for name in file:
            tensor = file[name]
            if not isinstance(tensor, Tensor):
                raise UserError(f"{path}: {name} is a {type(tensor).__name__}, not a tensor")
            read += tensor.nbytes
            yield path, name, tensor
            if read > chunk:
                del tensor
                file.reopen()
                read = 0


def holds_weights(folder: Path) -> bool:
    """Whether a folder has weights as transformers lays them out."""
    return any((folder / f"{stem}{end}").is_file() for stem in WEIGHT_FILES for end in ("", ".index.json"))


def weight_files(folder: Path) -> list[Path]:
    """The shards of a transformers folder, or its single file.

    Raises:
        UserError: no weights there, or the index is damaged.
    """
    for stem in WEIGHT_FILES:
        index = folder / f"{stem}.index.json"
        if index.is_file():
            return [folder / shard for shard in _shards_of(index)]
        if (folder / stem).is_file():
            return [folder / stem]
    raise UserError(f"{folder}: no model.safetensors, pytorch_model.bin or index of shards in it")


def read_folder(folder: Path) -> Iterator[tuple[Path, dict[str, Tensor]]]:
    """The shards of a transformers folder, one after the other.

    Raises:
        UserError: no weights there, or a shard that the index names is missing.
    """
    for path in weight_files(folder):
        yield path, read_tensors(path)


def _shards_of(index: Path) -> list[str]:
    """Raises UserError where the index is damaged, or names a file that lies elsewhere."""
    try:
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: no index of shards ({first_line(error)}); fetch it again") from error
    if any(Path(shard).name != shard for shard in shards):
        raise UserError(f"{index}: names a shard outside its folder; fetch it again")
    return shards


def load_strict(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Copy tensors into a module, every name and shape being accounted for.

    Raises:
        UserError: tensors are missing, surplus or misshapen; all of them are listed.
    """
    own = module.state_dict()
    problems = [f"missing: {name}" for name in own if name not in state]
    problems += [f"surplus: {name}" for name in state if name not in own]
    problems += [
        f"misshapen: {name} is {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        raise UserError(f"{source} does not fit this configuration:\n  " + "\n  ".join(problems))
    module.load_state_dict(state, strict=True)


def load_sam2(encoder: nn.Module, path: Path | str) -> None:
    """SAM2's image encoder from its `.pt` file, strictly."""
    load_strict(encoder, sam2_tensors(path), f"{path} (SAM2 image encoder)")


def sam2_tensors(path: Path | str) -> dict[str, Tensor]:
    """The image encoder of SAM2's `.pt` file; its video parts are passed over by name."""
    state = read_tensors(path).get("model")
    if not isinstance(state, dict):
        raise UserError(f"{path}: no 'model' in it; expected SAM2's own .pt, such as sam2.1_hiera_large.pt")
    prefix = "image_encoder."
    part = {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
    log.info("SAM2: %d tensors from %s; %d of its video part not used", len(part), path, len(state) - len(part))
    return part


def load_clip(clip: nn.Module, path: Path | str, config: PixDLMConfig) -> None:
    """CLIP's vision model, strictly; see `clip_tensors`."""
    load_strict(clip, clip_tensors(path, config), f"{path} (CLIP vision model)")


def clip_tensors(path: Path | str, config: PixDLMConfig) -> dict[str, Tensor]:
    """CLIP's vision model from a transformers folder or file, or from an open_clip file.

    The position table is resized to the configuration's grid by its `clip_positions` rule.
    """
    path = Path(path)
    files = read_folder(path) if path.is_dir() else [(path, read_tensors(path))]
    state = {name: tensor for _, part in files for name, tensor in part.items()}
    open_clip = "visual.class_embedding" in state or "module.visual.class_embedding" in state
    state = from_open_clip(state) if open_clip else _vision_of_transformers(state)
    table = "embeddings.position_embedding.weight"
    if table not in state:
        raise UserError(f"{path}: no CLIP vision model in it (no {table})")
    state[table] = resize_positions(state[table].float(), config.clip_grid, config.clip_positions)
    activation = config.vision_config.hidden_act
    log.info("CLIP: %d tensors from %s, activation %s", len(state), path, activation)
    if open_clip:  # whose files do not say: it is in the name of the model that they belong to
        log.info("an open_clip model whose name has no -quickgelu in it has gelu; vision_config.hidden_act is to fit")
    return state


def _vision_of_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the text model, and without the `vision_model.` that transformers 5 dropped."""
    prefix = "vision_model."
    prefixed = any(name.startswith(prefix) for name in state)
    own = {n[len(prefix) :]: t for n, t in state.items() if n.startswith(prefix)} if prefixed else state
    return {name: tensor for name, tensor in own.items() if not CLIP_DERIVED.search(name)}


OPEN_CLIP_NAMES = (
    ("class_embedding", "embeddings.class_embedding"),
    ("positional_embedding", "embeddings.position_embedding.weight"),
    ("conv1.", "embeddings.patch_embedding."),
    ("ln_pre.", "pre_layrnorm."),
    ("ln_post.", "post_layernorm."),
    ("transformer.resblocks.", "encoder.layers."),
)
OPEN_CLIP_LAYER = (
    (".ln_1.", ".layer_norm1."),
    (".ln_2.", ".layer_norm2."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
    (".attn.out_proj.", ".self_attn.out_proj."),
)


def from_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The vision tower of an open_clip checkpoint under transformers' names.

    The joint `in_proj` of a layer becomes q_proj, k_proj and v_proj; the final projection into the
    space shared with text is not part of the vision model and is left out.
    """
    marks = ("module.visual.", "visual.")
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        mark = next((m for m in marks if name.startswith(m)), None)
        if mark is None or name == f"{mark}proj":
            continue
        name = _replace_prefix(name[len(mark) :], OPEN_CLIP_NAMES)
        for old, new in OPEN_CLIP_LAYER:
            name = name.replace(old, new)
        joint = re.fullmatch(r"(.*)\.attn\.in_proj_(weight|bias)", name)
        if joint:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                out[f"{joint[1]}.self_attn.{part}_proj.{joint[2]}"] = piece.clone()
        else:
            out[name] = tensor
    return out


def _replace_prefix(name: str, table: Iterable[tuple[str, str]]) -> str:
    for old, new in table:
        if name.startswith(old):
            return new + name[len(old) :]
    return name


def load_llava(language_model: nn.Module, folder: Path) -> None:
    """The Llama of a LLaVA or Vicuna folder, shard by shard, into a model with added tokens.

    The rows of added tokens keep their fresh values; LLaVA's projector, `image_newline` and its own
    CLIP are not used, which is said in the log.
    """
    # peft keeps the matrix under an adapter as `base_layer`
    own = {name.replace(".base_layer.", "."): tensor for name, tensor in language_model.state_dict().items()}
    seen: set[str] = set()
    unused, problems = 0, []
    for path, shard in read_folder(folder):
        for name, tensor in shard.items():
            if name.startswith(LLAVA_UNUSED) or ROTARY_DERIVED.search(name):
                unused += 1
            elif name not in own:
                problems.append(f"surplus: {name} in {path.name}")
            elif not _copy_rows(own[name], tensor, extend=name in ("model.embed_tokens.weight", "lm_head.weight")):
                problems.append(f"misshapen: {name} is {tuple(tensor.shape)}, expected {tuple(own[name].shape)}")
            seen.add(name)
    problems += [f"missing: {name}" for name in own if name not in seen and "lora_" not in name]
    if problems:
        raise UserError(f"{folder} does not fit this configuration:\n  " + "\n  ".join(problems))
    log.info("Llama: %d tensors from %s", len(seen) - unused, folder)
    log.info("%s: %d tensors not used (projector, image_newline, CLIP): the projector starts fresh", folder, unused)


@torch.no_grad()
def _copy_rows(own: Tensor, tensor: Tensor, extend: bool) -> bool:
    """Copy a tensor, or with `extend` the first rows of one; false where the shapes do not allow it."""
    fits = own.shape == tensor.shape or (extend and own.shape[1:] == tensor.shape[1:] and len(own) >= len(tensor))
    if fits:
        own[: len(tensor)].copy_(tensor)
    return fits


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
