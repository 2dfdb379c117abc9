"""Fusion of the two visual paths: `Stitch` after stages 1 to 3 of CLIP, `Align` after stage 4.

Shape legend: B pictures, G patches along a side of CLIP's input, C CLIP's width, S SAM2's channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import PixDLMConfig


class Stitch(nn.Module):
    """Adds pixel features to CLIP tokens, weighted by one learned gate per picture.

    `F + g * S`, where F is the semantic side with a depthwise 7x7 residual, S the projected pixel
    side and g = tanh of a small MLP over both means (model/checkpoints/README.md, "Dual-path encoder"). Both
    projections start at zero, so that a new stitch changes nothing.
    """

    def __init__(self, width: int, pixel_channels: int) -> None:
        super().__init__()
        self.slow_conv = nn.Conv2d(pixel_channels, pixel_channels, 1)
        self.slow_proj = nn.Conv2d(pixel_channels, width, 1)
        self.fast_conv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.fast_proj = nn.Conv2d(width, width, 1)
        self.gate = nn.Sequential(nn.Linear(2 * width, width // 2), nn.GELU(), nn.Linear(width // 2, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set both projections to zero: the neutral stitch, which changes nothing."""
        for projection in (self.slow_proj, self.fast_proj):
            nn.init.zeros_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, tokens: Tensor, pixel: Tensor) -> Tensor:
        """float[B, G*G, C], float[B, S, any, any] -> float[B, G*G, C]"""
        y = to_map(tokens)
        slow = F.adaptive_avg_pool2d(self.slow_proj(F.gelu(self.slow_conv(pixel))), y.shape[-2:])
        fast = y + self.fast_proj(F.gelu(self.fast_conv(y)))
        means = torch.cat([fast.mean(dim=(2, 3)), slow.mean(dim=(2, 3))], dim=-1)
        gate = torch.tanh(self.gate(means))[..., None, None]
        return to_tokens(fast + gate * slow)


class Align(nn.Module):
    """The last fusion: a linear map of each side, added. Starts as the CLIP side alone."""

    def __init__(self, width: int, pixel_channels: int) -> None:
        super().__init__()
        self.fast_proj = nn.Linear(width, width)
        self.slow_proj = nn.Linear(pixel_channels, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the CLIP side to the identity and the pixel side to zero: the neutral alignment."""
        nn.init.eye_(self.fast_proj.weight)
        nn.init.zeros_(self.fast_proj.bias)
        nn.init.zeros_(self.slow_proj.weight)
        nn.init.zeros_(self.slow_proj.bias)

    def forward(self, tokens: Tensor, pixel: Tensor) -> Tensor:
        """float[B, G*G, C], float[B, S, any, any] -> float[B, G*G, C]"""
        grid = to_map(tokens).shape[-2:]
        return self.fast_proj(tokens) + self.slow_proj(to_tokens(F.adaptive_avg_pool2d(pixel, grid)))


class Fusion(nn.Module):
    """Three stitches and the alignment, one for each of CLIP's four stages."""

    def __init__(self, config: PixDLMConfig, pixel_channels: int) -> None:
        super().__init__()
        width = config.vision_config.hidden_size
        self.stitches = nn.ModuleList(Stitch(width, pixel_channels) for _ in range(3))
        self.align = Align(width, pixel_channels)

    def forward(self, stage: int, tokens: Tensor, pixel: Tensor) -> Tensor:
        """Apply the fusion after stage `stage` (0 to 3): float[B, G*G, C], float[B, S, any, any] -> float[B, G*G, C]"""
        fuse = self.stitches[stage] if stage < len(self.stitches) else self.align
        return fuse(tokens, pixel)


def to_map(tokens: Tensor) -> Tensor:
    """float[B, G*G, C] -> float[B, C, G, G]"""
    batch, count, channels = tokens.shape
    side = round(count**0.5)
    return tokens.transpose(1, 2).reshape(batch, channels, side, side)


def to_tokens(features: Tensor) -> Tensor:
    """float[B, C, H, W] -> float[B, H*W, C]"""
    return features.flatten(2).transpose(1, 2)
