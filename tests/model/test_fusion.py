"""The fusion: neutral when fresh, the published formula when not, and trained from zero."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import PixDLMConfig
from model.fusion import Align, Fusion, Stitch, to_map, to_tokens

WIDTH, CHANNELS, GRID = 6, 5, 4


def inputs(batch: int = 2, side: int = 8) -> tuple[Tensor, Tensor]:
    seeded = torch.Generator().manual_seed(0)
    tokens = torch.randn(batch, GRID * GRID, WIDTH, generator=seeded)
    return tokens, torch.randn(batch, CHANNELS, side, side, generator=seeded)


@torch.no_grad()
def randomised(module: nn.Module) -> nn.Module:
    seeded = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=seeded) * 0.5)
    return module


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def pointwise(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    return torch.einsum("oc,chw->ohw", convolution.weight[:, :, 0, 0], x) + convolution.bias[:, None, None]


def depthwise(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    padded = F.pad(x, (3, 3, 3, 3))
    y = convolution.bias[:, None, None].expand_as(x)
    for i, j in itertools.product(range(7), repeat=2):
        y = y + padded[:, i : i + GRID, j : j + GRID] * convolution.weight[:, 0, i, j, None, None]
    return y


def pooled(x: Tensor) -> Tensor:
    """Blocks of 2x2 averaged."""
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def stitched(stitch: Stitch, tokens: Tensor, pixel: Tensor) -> Tensor:
    """The published formula for one picture, in plain lines."""
    y = tokens.T.reshape(WIDTH, GRID, GRID)
    slow = pooled(pointwise(stitch.slow_proj, gelu(pointwise(stitch.slow_conv, pixel))))
    fast = y + pointwise(stitch.fast_proj, gelu(depthwise(stitch.fast_conv, y)))
    means = torch.cat([fast.mean(dim=(1, 2)), slow.mean(dim=(1, 2))])
    first, _, second = stitch.gate
    gate = torch.tanh(second.weight @ gelu(first.weight @ means + first.bias) + second.bias)
    return (fast + gate * slow).flatten(1).T


def test_tokens_and_maps_are_each_other_turned() -> None:
    tokens, _ = inputs()
    assert torch.equal(to_tokens(to_map(tokens)), tokens)
    assert torch.equal(to_map(tokens)[1, :, 2, 3], tokens[1, 2 * GRID + 3])


@pytest.mark.parametrize("kind", [Stitch, Align])
@pytest.mark.parametrize("side", [3, 4, 8])
def test_a_fresh_fusion_changes_nothing(kind: type[nn.Module], side: int) -> None:
    tokens, pixel = inputs(side=side)
    torch.testing.assert_close(kind(WIDTH, CHANNELS)(tokens, pixel), tokens)


@pytest.mark.parametrize("kind", [Stitch, Align])
def test_a_reset_fusion_is_fresh_again(kind: type[nn.Module]) -> None:
    tokens, pixel = inputs()
    fusion = randomised(kind(WIDTH, CHANNELS))
    assert not torch.allclose(fusion(tokens, pixel), tokens, atol=0.1)
    fusion.reset_parameters()
    torch.testing.assert_close(fusion(tokens, pixel), tokens)


def test_a_stitch_is_the_published_formula_picture_by_picture() -> None:
    tokens, pixel = inputs()
    stitch = randomised(Stitch(WIDTH, CHANNELS))
    expected = torch.stack([stitched(stitch, *one) for one in zip(tokens, pixel, strict=True)])
    torch.testing.assert_close(stitch(tokens, pixel), expected)


def test_an_image_has_one_gate_that_both_sides_move() -> None:
    tokens, pixel = inputs()
    stitch = randomised(Stitch(WIDTH, CHANNELS))
    nn.init.zeros_(stitch.fast_proj.weight)  # what is added is then the gated pixel side and a constant
    slow = F.adaptive_avg_pool2d(stitch.slow_proj(F.gelu(stitch.slow_conv(pixel))), GRID)

    def gate(moved: Tensor) -> Tensor:
        added = to_map(stitch(moved, pixel) - moved - stitch.fast_proj.bias)
        return added / slow

    found = gate(tokens)
    torch.testing.assert_close(found, found[:, :1, :1, :1].expand_as(found), atol=1e-3, rtol=1e-3)
    assert (found.abs() <= 1 + 1e-3).all()
    assert (found[0, 0, 0, 0] - found[1, 0, 0, 0]).abs() > 1e-3
    assert (gate(tokens + 1)[:, 0, 0, 0] - found[:, 0, 0, 0]).abs().min() > 1e-3


def test_the_alignment_adds_two_linear_maps() -> None:
    tokens, pixel = inputs()
    align = randomised(Align(WIDTH, CHANNELS))
    fast, slow = align.fast_proj, align.slow_proj
    for one, features, found in zip(tokens, pixel, align(tokens, pixel), strict=True):
        flat = pooled(features).flatten(1).T
        torch.testing.assert_close(found, one @ fast.weight.T + fast.bias + flat @ slow.weight.T + slow.bias)


def test_the_gradient_reaches_projections_that_start_at_zero() -> None:
    tokens, pixel = inputs()
    for fusion in (Stitch(WIDTH, CHANNELS), Align(WIDTH, CHANNELS)):
        fusion(tokens, pixel).square().sum().backward()
        for projection in (fusion.slow_proj, fusion.fast_proj):
            assert projection.weight.grad.abs().max() > 0
            assert projection.bias.grad.abs().max() > 0


def test_three_stitches_and_the_alignment_follow_the_stages(tiny_config: PixDLMConfig) -> None:
    torch.manual_seed(0)
    fusion = randomised(Fusion(tiny_config, CHANNELS))
    tokens, pixel = torch.randn(1, 16, 32), torch.randn(1, CHANNELS, 4, 4)
    for stage, own in enumerate([*fusion.stitches, fusion.align]):
        assert torch.equal(fusion(stage, tokens, pixel), own(tokens, pixel))


def test_it_runs_in_half_precision() -> None:
    tokens, pixel = inputs()
    for fusion in (randomised(Stitch(WIDTH, CHANNELS)), randomised(Align(WIDTH, CHANNELS))):
        expected = fusion(tokens, pixel)
        found = fusion.bfloat16()(tokens.bfloat16(), pixel.bfloat16())
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=0.05)
