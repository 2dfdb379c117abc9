"""The semantic path: CLIP's vision transformer in four equal stages, fused with the pixel path after each.

Shape legend: B pictures, G patches along a side, C CLIP's width, S SAM2's channels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionModel

from model.config import PixDLMConfig
from model.fusion import Fusion, to_map, to_tokens

STAGES = 4
POSITION_SCALE = 0.5  # of the initial position table, about that of initial patch embeddings


class SemanticPath(nn.Module):
    """CLIP's patches through its layers; the class token is dropped before the first of them."""

    def __init__(self, config: PixDLMConfig) -> None:
        super().__init__()
        self.clip = CLIPVisionModel(config.vision_config)
        table = self.clip.embeddings.position_embedding.weight
        with torch.no_grad():
            table[1:] = POSITION_SCALE * sine_positions(config.clip_grid, table.shape[1])

    def forward(self, pixels: Tensor, pixel_features: Tensor, fusion: Fusion) -> Tensor:
        """Fused tokens of a picture, after the last fusion and without CLIP's post-norm.

        Args:
            pixels: float[B, 3, 14*G, 14*G], normalised as CLIP's.
            pixel_features: float[B, S, H, W], SAM2's coarsest level.
            fusion: applied after each stage.

        Returns:
            float[B, G*G, C]
        """
        patches = self.clip.embeddings(pixels)[:, 1:]
        tokens = self.clip.pre_layrnorm(patches)
        layers = self.clip.encoder.layers
        depth = len(layers) // STAGES
        for stage in range(STAGES):
            for layer in layers[stage * depth : (stage + 1) * depth]:
                tokens = layer(tokens, None)
            tokens = fusion(stage, tokens, pixel_features)
        return tokens


def sine_positions(grid: int, width: int) -> Tensor:
    """Initial position table: sines and cosines of row and column, float32[grid*grid, width].

    CLIP's own initialisation, small random rows, leaves neighbours unrelated; pretrained tables replace this.
    """
    frequencies = torch.logspace(0, 1, width // 4, base=float(grid))
    angles = math.pi * (torch.arange(grid) + 0.5)[:, None] / grid * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows = waves[:, None].expand(grid, grid, -1)
    columns = waves[None].expand(grid, grid, -1)
    table = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    return F.pad(table, (0, width - table.shape[1]))


def resize_tokens(tokens: Tensor, grid: int) -> Tensor:
    """Resize a square of tokens to `grid` x `grid`, bilinearly: float[B, G*G, C] -> float[B, grid*grid, C]"""
    features = to_map(tokens)
    if features.shape[-1] == grid:
        return tokens
    return to_tokens(F.interpolate(features, (grid, grid), mode="bilinear", align_corners=False))


def resize_positions(table: Tensor, grid: int, rule: str) -> Tensor:
    """CLIP's position table for another number of patches.

    Args:
        table: float[g*g + 1, C], the class row first, as CLIP keeps it.
        grid: patches along a side at the new size.
        rule: "class_first" resizes the rows after the class row. "published_shift" takes rows 0 to
            g*g - 1 for the grid and the last row for the class row, as the published code did; its
            weights were trained with that shift (model/checkpoints/README.md, "Dual-path encoder").

    Returns:
        float[grid*grid + 1, C]
    """
    rows = table.shape[0] - 1
    if rows == grid * grid:
        return table
    shifted = rule == "published_shift"
    patches, class_row = (table[:rows], table[rows:]) if shifted else (table[1:], table[:1])
    resized = to_tokens(F.interpolate(to_map(patches[None]), (grid, grid), mode="bilinear", align_corners=False))[0]
    return torch.cat([resized, class_row] if shifted else [class_row, resized])
