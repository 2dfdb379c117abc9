"""Segment Anything's two-way transformer, on maps kept as token lists.

The same tensors under the same names as `sam2.modeling.sam.transformer.TwoWayTransformer`, and the
same numbers. What differs is the memory traffic, which is what a mask decoder costs: the position
code is the same for every mask, so its projections are computed once and not once a mask, and the
three projections of the map in a layer are one matrix product.

Shape legend: M masks, T tokens, N = H*W positions of the map, C channels, A channels inside attention.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention whose inner width is `width // downsample`."""

    def __init__(self, width: int, heads: int, downsample: int = 1) -> None:
        super().__init__()
        inner = width // downsample
        if inner % heads:
            raise ValueError(f"attention of width {inner} cannot be split into {heads} heads")
        self.heads = heads
        self.q_proj = nn.Linear(width, inner)
        self.k_proj = nn.Linear(width, inner)
        self.v_proj = nn.Linear(width, inner)
        self.out_proj = nn.Linear(inner, width)
        if downsample > 1:
            self.start_alike()

    @torch.no_grad()
    def start_alike(self) -> None:
        """Let queries and keys of a fresh cross-attention start from one projection, doubled.

        Tokens and map share a position code, so what lies at the same place then attends to each
        other from the first step on; measured, a fresh decoder learns places sooner.
        """
        self.q_proj.weight.mul_(2)
        self.k_proj.weight.copy_(self.q_proj.weight)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What is added to the queries, from projected q float[M, Lq, A] and k, v float[M, Lk, A]: float[M, Lq, C]"""
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Unprojected: float[M, Lq, C], float[M, Lk, C], float[M, Lk, C] -> float[M, Lq, C]"""
        return self.attend(self.q_proj(q), self.k_proj(k), self.v_proj(v))


class FeedForward(nn.Module):
    """Two layers with a ReLU between."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, inner), nn.Linear(inner, width)])

    def forward(self, x: Tensor) -> Tensor:
        """float[…, C] -> float[…, C]"""
        return self.layers[1](F.relu(self.layers[0](x)))


def project_map(features: Tensor, positions: Tensor, plain: list[nn.Linear], placed: list[nn.Linear]) -> list[Tensor]:
    """Several projections of one map in one matrix product.

    Args:
        features: float[M, N, C]
        positions: float[N, C], shared by all masks.
        plain: projections of the features alone.
        placed: projections of features plus positions.

    Returns:
        float[M, N, A] for each of `placed`, then for each of `plain`
    """
    layers = [*placed, *plain]
    weight = torch.cat([layer.weight for layer in layers])
    bias = torch.cat([layer.bias for layer in layers])
    projected = F.linear(features, weight).split([layer.out_features for layer in layers], dim=-1)
    shared = F.linear(positions, torch.cat([layer.weight for layer in placed]))
    shared = F.pad(shared, (0, sum(layer.out_features for layer in plain))) + bias
    shared = shared.split([layer.out_features for layer in layers], dim=-1)
    return [one + common for one, common in zip(projected, shared, strict=True)]


class TwoWayBlock(nn.Module):
    """Self-attention of the tokens, tokens to map, feed-forward, map to tokens."""

    def __init__(self, width: int, heads: int, mlp_width: int, first: bool) -> None:
        super().__init__()
        self.first = first  # the first layer has neither position code nor residual in self-attention
        self.self_attn = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn_token_to_image = Attention(width, heads, downsample=2)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, mlp_width)
        self.norm3 = nn.LayerNorm(width)
        self.norm4 = nn.LayerNorm(width)
        self.cross_attn_image_to_token = Attention(width, heads, downsample=2)

    def forward(self, tokens: Tensor, features: Tensor, code: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Both sides, updated.

        Args:
            tokens: float[M, T, C]
            features: float[M, N, C]
            code: float[M, T, C], the tokens' position code.
            positions: float[N, C], the map's position code.
        """
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            tokens = tokens + self.self_attn(tokens + code, tokens + code, tokens)
        tokens = self.norm1(tokens)

        reads, answers = self.cross_attn_token_to_image, self.cross_attn_image_to_token
        map_key, map_query, map_value = project_map(
            features, positions, plain=[reads.v_proj], placed=[reads.k_proj, answers.q_proj]
        )
        tokens = self.norm2(tokens + reads.attend(reads.q_proj(tokens + code), map_key, map_value))
        tokens = self.norm3(tokens + self.mlp(tokens))
        token_key, token_value = answers.k_proj(tokens + code), answers.v_proj(tokens)
        features = self.norm4(features + answers.attend(map_query, token_key, token_value))
        return tokens, features


class TwoWayTransformer(nn.Module):
    """`depth` two-way blocks and a last attention of the tokens to the map."""

    def __init__(self, depth: int, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(width, heads, mlp_width, first=i == 0) for i in range(depth))
        self.final_attn_token_to_image = Attention(width, heads, downsample=2)
        self.norm_final_attn = nn.LayerNorm(width)

    def forward(self, features: Tensor, positions: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and map after the last layer.

        Args:
            features: float[M, N, C]
            positions: float[N, C]
            tokens: float[M, T, C]; they are their own position code.

        Returns:
            float[M, T, C], float[M, N, C]
        """
        code = tokens
        for layer in self.layers:
            tokens, features = layer(tokens, features, code, positions)
        last = self.final_attn_token_to_image
        key, value = project_map(features, positions, plain=[last.v_proj], placed=[last.k_proj])
        tokens = self.norm_final_attn(tokens + last.attend(last.q_proj(tokens + code), key, value))
        return tokens, features
