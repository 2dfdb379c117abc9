"""What a published folder does not hold: CLIP, SAM2 and the fusion, from files of their own."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from model.checkpoints.layouts import HUB_ID, local_folder, tensor_shapes
from model.checkpoints.tensors import TensorFile, clip_tensors, read_tensors, rename_published, sam2_tensors
from model.config import PixDLMConfig
from model.fusion import Fusion
from utils.runtime.errors import UserError

log = logging.getLogger(__name__)

# Where they are looked for, unless they are named.
CLIP_PLACES = ("clip", "../clip")
SAM2_PLACES = ("sam2.pt", "../sam2/sam2.1_hiera_large.pt")
FUSION_FILE = "align_stages.bin"
NEUTRAL = "neutral"
NEUTRAL_KEY = "neutral_fusion"  # in the metadata of a file of parts


@dataclass(frozen=True)
class Backbones:
    """Files for what a folder does not hold; None looks in it and beside it.

    Args:
        clip: a transformers folder or file, a hub id, or an open_clip file.
        sam2: SAM2's `.pt`.
        fusion: a file of `align_stages` tensors, or "neutral" to run without: the stitches then do
            nothing, and every result is marked as not the published model.
    """

    clip: str | Path | None = None
    sam2: str | Path | None = None
    fusion: str | Path | None = None


def with_backbones(
    tensors: Iterable[tuple[str, Tensor]],
    folder: Path,
    config: PixDLMConfig,
    backbones: Backbones,
    channels: int,
    published: bool,
) -> Iterator[tuple[str, Tensor]]:
    """A folder's tensors, and those of CLIP and SAM2 (of a published one the fusion too) that it does not hold.

    Args:
        tensors: by our names.
        folder: where they come from.
        config: of the model.
        backbones: files that were named.
        channels: of SAM2's features, for a neutral fusion.
        published: whether a fusion is looked for.
    """
    parts = set()
    for name, tensor in tensors:
        parts.add(name.partition(".")[0])
        yield name, tensor
    if "semantic_path" not in parts:
        clip = find(backbones.clip, folder, CLIP_PLACES, "CLIP", "clip")
        yield from ((f"semantic_path.clip.{name}", tensor) for name, tensor in clip_tensors(clip, config).items())
    if "pixel_path" not in parts:
        sam2 = find(backbones.sam2, folder, SAM2_PLACES, "SAM2", "sam2")
        yield from ((f"pixel_path.encoder.{name}", tensor) for name, tensor in sam2_tensors(sam2).items())
    if published and "fusion" not in parts:
        yield from fusion_tensors(folder, config, backbones, channels)


def find(named: str | Path | None, folder: Path, places: tuple[str, ...], what: str, option: str) -> Path:
    """The file or folder of a backbone: the one that was named, or where it is looked for.

    Raises:
        UserError: it is not there.
    """
    if named and option == "clip" and not Path(named).exists() and HUB_ID.fullmatch(str(named)):
        return local_folder(named, {})
    candidates = [Path(named)] if named else [folder / place for place in places]
    for candidate in candidates:
        if candidate.exists():
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
    own = (folder / FUSION_FILE).is_file() or any("align_stages" in name for name in tensor_shapes(folder))
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
    if not Path(backbones.fusion).is_file():
        raise UserError(f"--fusion {backbones.fusion}: no such file")
    return TensorFile(backbones.fusion).metadata().get(NEUTRAL_KEY) == "true"


def fusion_tensors(
    folder: Path, config: PixDLMConfig, backbones: Backbones, channels: int
) -> Iterator[tuple[str, Tensor]]:
    """The fusion's weights from the file that was named or lies in the folder, or the neutral ones."""
    if str(backbones.fusion) == NEUTRAL:
        log.warning("%s: neutral fusion. This is not the published model; results are marked", folder)
        yield from ((f"fusion.{name}", tensor) for name, tensor in Fusion(config, channels).state_dict().items())
        return
    path = backbones.fusion or folder / FUSION_FILE
    for name, tensor in read_tensors(path).items():
        try:
            yield rename_published(name), tensor
        except KeyError as error:
            raise UserError(f"{path}: {name!r} is no align_stages tensor") from error
