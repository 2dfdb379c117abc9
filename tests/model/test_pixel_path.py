"""The pixel path: SAM2's encoders by name, its pyramid, and when it has a gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sam2.modeling.position_encoding import PositionEmbeddingSine

from model.config import PixDLMConfig
from model.pixel_path import SAM2_CONFIGS, PixelPath, build_encoder, sam2_settings


@pytest.fixture
def path(tiny_config: PixDLMConfig) -> PixelPath:
    torch.manual_seed(0)
    return PixelPath(tiny_config).eval()


@pytest.mark.parametrize(("name", "width"), [("hiera_t", 96), ("hiera_s", 96), ("hiera_b+", 112), ("hiera_l", 144)])
def test_a_named_encoder_has_its_settings(name: str, width: int) -> None:
    settings = sam2_settings(name)
    assert settings["trunk"]["embed_dim"] == width
    assert settings["neck"]["backbone_channel_list"] == [width * 8, width * 4, width * 2, width]
    assert not any("_target_" in part for part in settings.values())


def test_the_smallest_named_encoder_builds_without_memory() -> None:
    """The largest one is counted in test_config.py."""
    with torch.device("meta"):
        path = PixelPath(PixDLMConfig(pixel_encoder="hiera_t"))
        levels = path(torch.empty(1, 3, 1024, 1024))
    assert all(parameter.is_meta for parameter in path.parameters())
    assert [tuple(level.shape) for level in levels] == [(1, 256, 64, 64), (1, 256, 128, 128), (1, 256, 256, 256)]


def test_an_unknown_encoder_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"unknown pixel_encoder 'hiera_xl'; known are hiera_t, hiera_s, hiera_b\+, "):
        PixelPath(PixDLMConfig(pixel_encoder="hiera_xl"))
    assert len(SAM2_CONFIGS) == 4


def test_a_trunk_and_a_neck_that_do_not_fit_are_refused(tiny_config: PixDLMConfig) -> None:
    settings = tiny_config.pixel_encoder
    with pytest.raises(
        ValueError, match=r"the trunk gives channels \[64, 32, 16, 8\], the neck expects \[1, 2, 3, 4\]"
    ):
        build_encoder({**settings, "neck": {"backbone_channel_list": [1, 2, 3, 4]}})


def test_the_pyramid_comes_coarsest_first(path: PixelPath) -> None:
    levels = path(torch.randn(2, 3, 64, 64))
    assert [tuple(level.shape) for level in levels] == [(2, 16, 4, 4), (2, 16, 8, 8), (2, 16, 16, 16)]
    assert path.channels == 16


def test_it_is_sam2s_encoder_without_the_position_code(path: PixelPath) -> None:
    pixels = torch.randn(1, 3, 64, 64)
    found = path(pixels)
    path.encoder.neck.position_encoding = PositionEmbeddingSine(16)
    published = path.encoder(pixels)
    assert torch.equal(found[0], published["vision_features"])
    for ours, theirs in zip(found, published["backbone_fpn"][::-1], strict=True):
        assert torch.equal(ours, theirs)


def test_a_smaller_tensor_is_enlarged_to_the_networks_size(path: PixelPath) -> None:
    small = torch.randn(1, 3, 28, 28)
    large = F.interpolate(small, (64, 64), mode="bilinear", align_corners=True)
    assert torch.equal(large[..., 0, 0], small[..., 0, 0]) and torch.equal(large[..., -1, -1], small[..., -1, -1])
    for ours, expected in zip(path(small), path(large), strict=True):
        assert torch.equal(ours, expected)


def test_it_has_a_gradient_only_where_it_trains(path: PixelPath) -> None:
    pixels = torch.randn(1, 3, 64, 64, requires_grad=True)
    assert all(level.requires_grad for level in path(pixels))
    path.requires_grad_(False)
    assert not any(level.requires_grad for level in path(pixels))
    next(path.encoder.neck.parameters()).requires_grad_(True)
    assert path(pixels)[0].requires_grad
    with torch.no_grad():
        assert not path(pixels)[0].requires_grad


def test_a_trained_encoder_gets_its_gradient(path: PixelPath) -> None:
    sum(level.square().sum() for level in path(torch.randn(1, 3, 64, 64))).backward()
    trunk = path.encoder.trunk
    assert trunk.patch_embed.proj.weight.grad.abs().max() > 0
    assert trunk.blocks[-1].mlp.layers[0].weight.grad.abs().max() > 0


def test_half_precision_stays_half_precision(path: PixelPath) -> None:
    pixels = torch.randn(1, 3, 28, 28)
    expected = path(pixels)
    for found, level in zip(path.bfloat16()(pixels.bfloat16()), expected, strict=True):
        assert found.dtype == torch.bfloat16
        assert (found - level).abs().mean() < 0.05 * level.std()
