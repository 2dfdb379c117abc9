"""Segment Anything's two-way transformer, on maps kept as token lists.

The same tensors under the same names as `sam2.modeling.sam.transformer.TwoWayTransformer`, and the
same numbers to rounding. Only the order of the products differs. A handful of tokens attends to thousands of map
positions, so projections are applied on the tokens' side: the map is neither projected nor added to its position
code, since on a CPU passes over the map dominate the time (utils/benchmark/README.md).

Shape legend: M masks, T tokens, N = H*W positions of the map, C channels, A channels inside
attention, h heads, d = A / h.
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
            self.tie_query_key_init()

    @torch.no_grad()
    def tie_query_key_init(self) -> None:
        """Initialise the query and key projections of a cross-attention with one matrix, doubled.

        Tokens and map share a position code, so equal positions then attend to each other from the first step on;
        measured, a new decoder learns positions sooner.
        """
        self.q_proj.weight.mul_(2)
        self.k_proj.weight.copy_(self.q_proj.weight)

    def split_heads(self, x: Tensor, dim: int) -> Tensor:
        """Split dimension `dim`, of size h * n, into (h, n)."""
        return x.unflatten(dim, (self.heads, -1))

    @property
    def scale(self) -> float:
        """Factor of the attention scores, 1/sqrt(d)."""
        return (self.q_proj.out_features // self.heads) ** -0.5

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of tokens to tokens: float[M, Lq, C], float[M, Lk, C], float[M, Lk, C] -> float[M, Lq, C]"""
        projected = (self.q_proj(q), self.k_proj(k), self.v_proj(v))
        heads = (self.split_heads(one, -1).transpose(1, 2) for one in projected)
        return self.out_proj(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))

    def scores(self, projected: Tensor, layer: nn.Linear, features: Tensor, positions: Tensor) -> Tensor:
        """Attention scores of tokens and map. `layer` is applied to the tokens, so that the map is not projected.

        Args:
            projected: float[M, T, A], the tokens' queries or keys.
            layer: k_proj where the tokens are queries, q_proj where the map is.
            features: float[M, N, C]
            positions: float[N, C], multiplied on its own: adding it to the features would copy the map.

        Returns:
            float[M, h, T, N]
        """
        tokens = self.split_heads(projected, -1) * self.scale
        lifted = torch.einsum("mthd,hdc->mhtc", tokens, self.split_heads(layer.weight, 0)).flatten(1, 2)
        bias = torch.einsum("mthd,hd->mht", tokens, self.split_heads(layer.bias, 0)).flatten(1)
        position_scores = lifted @ positions.T + bias[..., None]
        return self.split_heads(torch.baddbmm(position_scores, lifted, features.transpose(1, 2)), 1)

    def read_map(self, tokens: Tensor, features: Tensor, positions: Tensor) -> Tensor:
        """Attention of tokens to map: q W_k' is multiplied with the map as it is, W_v with the weighted sum.

        Args:
            tokens: float[M, T, C], with their position code.
            features: float[M, N, C]
            positions: float[N, C], the map's position code.

        Returns:
            float[M, T, C], the attention output, without residual
        """
        weights = softmax(self.scores(self.q_proj(tokens), self.k_proj, features, positions), dim=-1).flatten(1, 2)
        read = self.split_heads(weights @ features, 1)
        values = torch.einsum("mhtc,hdc->mthd", read, self.split_heads(self.v_proj.weight, 0)).flatten(2)
        return self.out_proj(values + self.v_proj.bias)

    def write_map(self, features: Tensor, positions: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of map to tokens, with residual: k W_q' is multiplied with the map as it is, W_o with the values.

        Args:
            features: float[M, N, C]
            positions: float[N, C], the map's position code.
            keys: float[M, T, C], the tokens with their position code.
            values: float[M, T, C], the tokens.

        Returns:
            float[M, N, C], the map plus the attention output
        """
        weights = softmax(self.scores(self.k_proj(keys), self.q_proj, features, positions), dim=2).flatten(1, 2)
        output = self.split_heads(self.out_proj.weight, 1)
        written = torch.einsum("mthd,chd->mhtc", self.split_heads(self.v_proj(values), -1), output).flatten(1, 2)
        written = written + self.out_proj.bias / self.heads  # weights of a head sum to 1
        if autocasts(features.device.type):  # baddbmm would then round the map too
            return features + torch.bmm(weights.transpose(1, 2), written)
        return torch.baddbmm(features, weights.transpose(1, 2), written)


def autocasts(device: str) -> bool:
    """Whether autocast is on for this device type; False for types without autocast, such as meta."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def softmax(scores: Tensor, dim: int) -> Tensor:
    """Softmax in float32, returned in the dtype of the scores."""
    return scores.softmax(dim, dtype=torch.float32).to(scores.dtype)


class FeedForward(nn.Module):
    """Two layers with a ReLU between."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, inner), nn.Linear(inner, width)])

    def forward(self, x: Tensor) -> Tensor:
        """float[…, C] -> float[…, C]"""
        return self.layers[1](F.relu(self.layers[0](x)))


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
        """Tokens and map after this block.

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

        tokens = self.norm2(tokens + self.cross_attn_token_to_image.read_map(tokens + code, features, positions))
        tokens = self.norm3(tokens + self.mlp(tokens))
        features = self.cross_attn_image_to_token.write_map(features, positions, tokens + code, tokens)
        return tokens, self.norm4(features)


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
        read = self.final_attn_token_to_image.read_map(tokens + code, features, positions)
        return self.norm_final_attn(tokens + read), features
