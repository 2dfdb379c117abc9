"""The mask side: [SEG] tokens and pixel features in, masks out, over three levels from coarse to fine.

Shape legend: B pictures, M masks, P pixels along a side of the pixel path's input, C the decoder's
width (256 as published), S SAM2's channels, m the side of the mask logits.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from sam2.modeling.position_encoding import PositionEmbeddingRandom
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam2_utils import MLP, LayerNorm2d
from torch import Tensor, nn

from model.config import PixDLMConfig
from model.fusion import to_tokens
from model.inputs.images import resize_maps
from model.language.tokens import SCALES, TOKENS_PER_SCALE
from model.two_way_transformer import TwoWayTransformer, autocasts

MASK_TOKENS = 4  # Segment Anything's; only token 0 becomes a mask
MASK_INPUT_CHANNELS = 16  # of the prompt encoder's dense branch, present in published weights
TOKEN_SCALE = 0.5  # of the initial tokens, so that the prompt outweighs them


class SegProjection(nn.Module):
    """Hidden states of a group of nine [SEG] tokens -> one embedding a scale."""

    def __init__(self, config: PixDLMConfig) -> None:
        super().__init__()
        width = config.text_config.hidden_size
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, config.mask_width))
        rescale_to_lecun_init(self.mlp)
        # Published: constant weights of 1/9, never trained or saved. In a new decoder its own tokens
        # outweigh so small a prompt, so trained weights start at 1.
        self.token_weights = (
            nn.Parameter(torch.ones(SCALES, TOKENS_PER_SCALE)) if config.trainable_token_weights else None
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """float[M * 9, D] -> float[M, 3, C]"""
        embeddings = self.mlp(hidden).unflatten(0, (-1, SCALES, TOKENS_PER_SCALE))
        if self.token_weights is None:
            return embeddings.sum(dim=2) / (SCALES * TOKENS_PER_SCALE)
        return (embeddings * self.token_weights[..., None]).sum(dim=2)


class PixelNeck(nn.Module):
    """SAM2's features -> the decoder's: 1x1 up to Llama's width, norm, and back down; no activation."""

    def __init__(self, config: PixDLMConfig, pixel_channels: int) -> None:
        super().__init__()
        wide, width = config.pixel_embed_width, config.mask_width
        self.embed = nn.Sequential(nn.Conv2d(pixel_channels, wide, 1, bias=False), LayerNorm2d(wide))
        self.neck = nn.Sequential(
            nn.Conv2d(wide, width, 1, bias=False),
            LayerNorm2d(width),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            LayerNorm2d(width),
        )

    def forward(self, features: Tensor) -> Tensor:
        """float[B, S, H, W] -> float[B, C, H, W]"""
        return self.neck(self.embed(features))


class MaskDecoder(nn.Module):
    """Three levels, each with its own two-way transformer, each guided by the previous level's mask.

    `iou_head` and mask tokens 1 to 3 come with published weights; no mask depends on them.
    """

    def __init__(self, config: PixDLMConfig, pixel_channels: int) -> None:
        super().__init__()
        width = config.mask_width
        self.pyramid = config.pixel_pyramid
        self.grid = config.pixel_grid
        self.mask_size = config.mask_size
        self.pixel_neck = PixelNeck(config, pixel_channels)
        image_size = (config.pixel_image_size, config.pixel_image_size)
        self.prompt_encoder = PromptEncoder(width, (self.grid, self.grid), image_size, MASK_INPUT_CHANNELS)
        self.transformers = nn.ModuleList(
            TwoWayTransformer(2, width, config.mask_heads, config.mask_mlp_width) for _ in range(SCALES)
        )
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(MASK_TOKENS, width)
        self.level_embed = nn.Embedding(SCALES, width)
        self.positions = PositionEmbeddingRandom(width // 2)
        self.upscaling = Upsampling(width, config.mask_embed_width)
        self.level_upsampling = None if self.pyramid else Upsampling(width, width)
        self.hypernetworks = nn.ModuleList(MLP(width, width, config.mask_embed_width, 3) for _ in range(MASK_TOKENS))
        self.iou_head = MLP(width, width, MASK_TOKENS, 3)
        self.scale_weights = nn.Parameter(torch.full((SCALES,), 1 / SCALES)) if config.trainable_token_weights else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise so that the masks depend on the question from the first step on.

        With PyTorch's initialisation (variance 1/(3 * fan_in)) every layer cuts the signal's variance to a
        third, and tokens from N(0, 1) outweigh the prompt: the question made 0.1 % of a mask token's variance,
        and `mini` gave the same mask to every question for 18,000 samples. Measured with the target's
        position as the prompt, after 200 steps: gIoU 0.06 with PyTorch's initialisation, 0.42 with this one.
        """
        rescale_to_lecun_init(self)
        for tokens in (self.iou_token, self.mask_tokens, self.level_embed, self.prompt_encoder.no_mask_embed):
            tokens.weight.mul_(TOKEN_SCALE)

    def forward(self, pyramid: list[Tensor], image_index: Tensor, seg: Tensor) -> Tensor:
        """Mask logits, the mean of the three levels (weighted where the weights are trained).

        Args:
            pyramid: SAM2's levels, coarsest first: float[B, S, P/16, P/16], … /8, … /4.
            image_index: long[M], the picture of each mask.
            seg: float[M, 3, C], one embedding a scale.

        Returns:
            float[M, m, m]
        """
        levels = self.level_features(pyramid)
        logits: list[Tensor] = []
        for level, (features, size) in enumerate(levels):
            features, dense = features.index_select(0, image_index), self.prompt_encoder.no_mask_embed.weight
            if level:
                attention = resize_maps(logits[-1], size).sigmoid().flatten(1)[..., None]
                features = torch.addcmul(dense, features, 1 + attention)
            else:
                features = features + dense
            logits.append(self.decode_level(level, features, size, seg[:, level]))
        resized = torch.stack([resize_maps(one, (self.mask_size,) * 2) for one in logits])
        if self.scale_weights is None:
            return resized.mean(dim=0)
        return torch.einsum("smhw,s->mhw", resized, self.scale_weights)

    def level_features(self, pyramid: list[Tensor]) -> list[tuple[Tensor, tuple[int, int]]]:
        """Each level's input map, shared by all masks of a picture.

        With `pixel_pyramid` SAM2's own three levels; else the coarsest one, enlarged by the shared
        upsampling for levels 1 and 2 (published: the check for the pyramid never matched).

        Returns:
            for each level float[B, H*W, C] and (H, W)
        """
        if self.pyramid:
            return [(to_tokens(self.pixel_neck(level)), tuple(level.shape[-2:])) for level in pyramid]
        neck = self.pixel_neck(pyramid[0])
        size = tuple(neck.shape[-2:])
        coarse = to_tokens(neck)
        fine = (to_tokens(_pixel_shuffle(self.level_upsampling(coarse), size)), (2 * size[0], 2 * size[1]))
        return [(coarse, size), fine, fine]

    def decode_level(self, level: int, features: Tensor, size: tuple[int, int], seg: Tensor) -> Tensor:
        """float[M, H*W, C], (H, W), float[M, C] -> float[M, 2H, 2W], logits of mask token 0"""
        tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(len(seg), -1, -1)
        tokens = torch.cat([tokens, seg[:, None]], dim=1) + self.level_embed.weight[level]
        positions = self.position_code(level, size).to(features.dtype)
        tokens, features = self.transformers[level](features, positions, tokens)
        mask_token = self.hypernetworks[0](tokens[:, 1])
        quarters = torch.einsum("mc,mnqc->mnq", mask_token, self.upscaling(features))
        return _pixel_shuffle(quarters[..., None], size)[:, 0]

    def position_code(self, level: int, size: tuple[int, int]) -> Tensor:
        """float[H*W, C]: at level 0 the prompt encoder's code, made at half the size and resized
        (published behaviour); at the others the decoder's own."""
        if level:
            return to_tokens(_position_map(self.positions, size)[None])[0]
        half = _position_map(self.prompt_encoder.pe_layer, (size[0] // 2, size[1] // 2))
        return to_tokens(resize_maps(half, size)[None])[0]


class Upsampling(nn.Sequential):
    """Transposed convolution 2x2 of stride 2, LayerNorm2d, GELU, on a map kept as a token list.

    Such a convolution is one linear map from a position to its 2x2 output pixels ("quarters"), so memory is
    rearranged only once, at the end (`_pixel_shuffle`).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.ConvTranspose2d(inputs, outputs, 2, stride=2), LayerNorm2d(outputs), nn.GELU())

    def forward(self, features: Tensor) -> Tensor:
        """float[M, N, C] -> float[M, N, 4, C'], the quarters row by row"""
        convolution, norm, activation = self
        weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)
        quarters = F.linear(features, weight, convolution.bias.repeat(4)).unflatten(-1, (4, -1))
        return activation(F.layer_norm(quarters, norm.weight.shape, norm.weight, norm.bias, norm.eps))


@torch.no_grad()
def rescale_to_lecun_init(module: nn.Module) -> None:
    """Scale new linear maps from PyTorch's variance 1/(3 * fan_in) to LeCun's 1/fan_in; query and key
    projections are left to `two_way_transformer.Attention.tie_query_key_init`."""
    for name, layer in module.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)) and not name.endswith(("q_proj", "k_proj")):
            layer.weight.mul_(3**0.5)


def _pixel_shuffle(quarters: Tensor, size: tuple[int, int]) -> Tensor:
    """Arrange every position's 2x2 pixels on the map: float[M, H*W, 4, C] -> float[M, C, 2H, 2W]"""
    grid = quarters.unflatten(2, (2, 2)).unflatten(1, size)  # M, H, W, 2, 2, C
    return grid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def _position_map(code: PositionEmbeddingRandom, size: tuple[int, int]) -> Tensor:
    """float32[C, H, W], also where the model's weights are half precision: SAM2 makes its grid in float32."""
    frequencies = {name: buffer.float() for name, buffer in code.named_buffers()}
    device = frequencies["positional_encoding_gaussian_matrix"].device.type
    with torch.autocast(device, enabled=False) if autocasts(device) else nullcontext():
        return torch.func.functional_call(code, frequencies, (size,))
