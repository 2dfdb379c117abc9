"""Segment Anything's two-way transformer, on maps kept as token lists.

The same tensors under the same names as `sam2.modeling.sam.transformer.TwoWayTransformer`, and the
same numbers to rounding. What differs is the order of the products: a handful of tokens meets a map
of thousands of positions, so it is the tokens that are brought to the map, and the map is never projected,
nor added to its position code: on a CPU it is passes over the map that take the time (utils/benchmark/README.md).

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
        """Let queries and keys of a fresh cross-attention start from one projection, doubled.

        Tokens and map share a position code, so what lies at the same place then attends to each
        other from the first step on; measured, a fresh decoder learns places sooner.
        """
        self.q_proj.weight.mul_(2)
        self.k_proj.weight.copy_(self.q_proj.weight)

    def split_heads(self, x: Tensor, dim: int) -> Tensor:
        """A dimension of h times something parted in two, such as A = h * d of projected tokens or of a layer."""
        return x.unflatten(dim, (self.heads, -1))

    @property
    def scale(self) -> float:
        """What scores are multiplied with, 1/sqrt(d)."""
        return (self.q_proj.out_features // self.heads) ** -0.5

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Tokens to tokens, unprojected: float[M, Lq, C], float[M, Lk, C], float[M, Lk, C] -> float[M, Lq, C]"""
        projected = (self.q_proj(q), self.k_proj(k), self.v_proj(v))
        heads = (self.split_heads(one, -1).transpose(1, 2) for one in projected)
        return self.out_proj(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))

    def scores(self, projected: Tensor, layer: nn.Linear, features: Tensor, positions: Tensor) -> Tensor:
        """Of tokens and map; it is `layer` that comes to the tokens, so that the map need not be projected.

        Args:
            projected: float[M, T, A]
            layer: k_proj where the tokens ask, q_proj where the map asks.
            features: float[M, N, C]
            positions: float[N, C], which meets the tokens by itself: the sum of both is as large as the map.

        Returns:
            float[M, h, T, N]
        """
        tokens = self.split_heads(projected, -1) * self.scale
        brought = torch.einsum("mthd,hdc->mhtc", tokens, self.split_heads(layer.weight, 0)).flatten(1, 2)
        bias = torch.einsum("mthd,hd->mht", tokens, self.split_heads(layer.bias, 0)).flatten(1)
        placed = brought @ positions.T + bias[..., None]
        return self.split_heads(torch.baddbmm(placed, brought, features.transpose(1, 2)), 1)

    def read_map(self, tokens: Tensor, features: Tensor, positions: Tensor) -> Tensor:
        """Tokens to map: q W_k' meets the map as it is, and W_v follows on what was read.

        Args:
            tokens: float[M, T, C], with their position code.
            features: float[M, N, C]
            positions: float[N, C], the map's position code.

        Returns:
            float[M, T, C], what is added to the tokens
        """
        shares = softmax(self.scores(self.q_proj(tokens), self.k_proj, features, positions), dim=-1).flatten(1, 2)
        read = self.split_heads(shares @ features, 1)
        values = torch.einsum("mhtc,hdc->mthd", read, self.split_heads(self.v_proj.weight, 0)).flatten(2)
        return self.out_proj(values + self.v_proj.bias)

    def write_map(self, features: Tensor, positions: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Map to tokens: k W_q' meets the map as it is, and W_o is done on the tokens' values.

        Args:
            features: float[M, N, C]
            positions: float[N, C], the map's position code.
            keys: float[M, T, C], the tokens with their position code.
            values: float[M, T, C], the tokens.

        Returns:
            float[M, N, C], the map with what it read added
        """
        shares = softmax(self.scores(self.k_proj(keys), self.q_proj, features, positions), dim=2).flatten(1, 2)
        output = self.split_heads(self.out_proj.weight, 1)
        written = torch.einsum("mthd,chd->mhtc", self.split_heads(self.v_proj(values), -1), output).flatten(1, 2)
        written = written + self.out_proj.bias / self.heads  # a head's shares add up to 1, so that this arrives whole
        if autocasts(features.device.type):  # which would round the map as well
            return features + torch.bmm(shares.transpose(1, 2), written)
        return torch.baddbmm(features, shares.transpose(1, 2), written)


def autocasts(device: str) -> bool:
    """Whether products on this type of device are being rounded; never on those that cannot, such as meta."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def softmax(scores: Tensor, dim: int) -> Tensor:
    """In float32, whatever the type of the scores."""
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
