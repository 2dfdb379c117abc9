"""The pixel path: SAM2's image encoder, from the `sam2` package.

Shape legend: B pictures, P pixels along a side of the input, C channels of the neck (256 as published).
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from torch import Tensor, nn

from model.config import PixDLMConfig

SAM2_CONFIGS = ("hiera_t", "hiera_s", "hiera_b+", "hiera_l")
SCALP = 1  # SAM2 discards its coarsest level (stride 32) after the neck has used it


def sam2_settings(name: str) -> dict[str, dict[str, Any]]:
    """The `trunk` and `neck` arguments of a configuration that ships with the `sam2` package.

    Raises:
        ValueError: no such configuration; the known ones are listed.
    """
    if name not in SAM2_CONFIGS:
        raise ValueError(f"unknown pixel_encoder {name!r}; known are {', '.join(SAM2_CONFIGS)}")
    file = resources.files("sam2") / "configs" / "sam2.1" / f"sam2.1_{name}.yaml"
    encoder = OmegaConf.to_container(OmegaConf.create(file.read_text()).model.image_encoder)
    return {part: {k: v for k, v in encoder[part].items() if k != "_target_"} for part in ("trunk", "neck")}


class _NoPositions(nn.Module):
    """Stands in for the neck's sine position code, which PixDLM never reads."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(())


def build_encoder(settings: dict[str, dict[str, Any]]) -> ImageEncoder:
    """SAM2's image encoder from `trunk` (Hiera) and `neck` (FpnNeck) arguments."""
    device = torch.empty(()).device
    with torch.device("cpu"):  # Hiera computes its drop-path rates with .item(), which the meta device refuses
        trunk = Hiera(**settings["trunk"])
    if device.type != "cpu":  # on "cpu" nothing moves: init_empty_weights may have put the weights on meta
        trunk.to(device)
    neck_settings = {
        "d_model": 256,
        "backbone_channel_list": trunk.channel_list,
        "fpn_top_down_levels": [2, 3],
        "fpn_interp_model": "nearest",
        **settings["neck"],
        "position_encoding": _NoPositions(),
    }
    if trunk.channel_list != neck_settings["backbone_channel_list"]:
        raise ValueError(
            f"pixel_encoder: the trunk gives channels {trunk.channel_list}, "
            f"the neck expects {neck_settings['backbone_channel_list']}"
        )
    return ImageEncoder(trunk=trunk, neck=FpnNeck(**neck_settings), scalp=SCALP)


class PixelPath(nn.Module):
    """SAM2's pyramid of a picture; without gradient while it is frozen."""

    def __init__(self, config: PixDLMConfig) -> None:
        super().__init__()
        known = isinstance(config.pixel_encoder, str)
        self.encoder = build_encoder(sam2_settings(config.pixel_encoder) if known else config.pixel_encoder)
        self.size = config.pixel_image_size
        self.channels: int = self.encoder.neck.d_model

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """SAM2's features, coarsest first.

        Args:
            pixels: float[B, 3, any, any]; resized to P where it differs (published: CLIP's tensor).

        Returns:
            float[B, C, P/16, P/16], float[B, C, P/8, P/8], float[B, C, P/4, P/4]
        """
        trains = torch.is_grad_enabled() and any(p.requires_grad for p in self.encoder.parameters())
        with torch.set_grad_enabled(trains):
            if pixels.shape[-1] != self.size:
                size = (self.size, self.size)
                pixels = F.interpolate(pixels.float(), size, mode="bilinear", align_corners=True).to(pixels.dtype)
            features = self.encoder(pixels)["backbone_fpn"]
        return [level.to(pixels.dtype) for level in features[::-1]]  # SAM2's neck sums its levels in float32
