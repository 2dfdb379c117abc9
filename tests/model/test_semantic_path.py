"""The semantic path: position tables, image tokens, and CLIP in four fused stages."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionModel

from model.config import PixDLMConfig
from model.fusion import Fusion
from model.semantic_path import SemanticPath, resize_positions, resize_tokens, sine_positions


def table(grid: int, width: int = 4) -> Tensor:
    return torch.randn(grid * grid + 1, width, generator=torch.Generator().manual_seed(grid))


def resized(rows: Tensor, size: int) -> Tensor:
    """Rows of a square grid, each channel a picture."""
    grid = round(len(rows) ** 0.5)
    pictures = rows.T.reshape(1, -1, grid, grid)
    return F.interpolate(pictures, (size, size), mode="bilinear", align_corners=False)[0].flatten(1).T


class Recorder(nn.Module):
    """A fusion that changes nothing and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, Tensor]] = []

    def forward(self, stage: int, tokens: Tensor, pixel: Tensor) -> Tensor:
        self.calls.append((stage, tokens))
        return tokens


@pytest.fixture
def path(tiny_config: PixDLMConfig) -> SemanticPath:
    torch.manual_seed(0)
    return SemanticPath(tiny_config).eval()


# Position tables


@pytest.mark.parametrize("grid", [2, 4, 7])
def test_class_first_keeps_the_class_row_and_resizes_the_rest(grid: int) -> None:
    old = table(5)
    new = resize_positions(old, grid, "class_first")
    assert new.shape == (grid * grid + 1, 4)
    assert torch.equal(new[0], old[0])
    torch.testing.assert_close(new[1:], resized(old[1:], grid))


@pytest.mark.parametrize("grid", [2, 4, 7])
def test_published_shift_takes_the_class_row_for_the_first_patch(grid: int) -> None:
    old = table(5)
    new = resize_positions(old, grid, "published_shift")
    assert new.shape == (grid * grid + 1, 4)
    assert torch.equal(new[-1], old[-1])
    torch.testing.assert_close(new[:-1], resized(old[:-1], grid))


@pytest.mark.parametrize("rule", ["class_first", "published_shift"])
def test_a_table_of_the_right_size_stays_as_it_is(rule: str) -> None:
    assert torch.equal(resize_positions(table(5), 5, rule), table(5))


def test_fresh_positions_tell_places_apart_and_resemble_their_neighbours() -> None:
    places = F.normalize(sine_positions(8, 32), dim=-1)
    seg_image_similarity = places @ places.T
    assert (seg_image_similarity - torch.eye(64)).max() < 0.99
    middle = seg_image_similarity[8 * 4 + 4].reshape(8, 8)
    assert middle[4, 5] > middle[4, 7] and middle[5, 4] > middle[7, 4]


def test_a_fresh_model_starts_from_them(path: SemanticPath, tiny_config: PixDLMConfig) -> None:
    rows = path.clip.embeddings.position_embedding.weight[1:]
    torch.testing.assert_close(rows, 0.5 * sine_positions(tiny_config.clip_grid, 32))


# Image tokens


def test_image_tokens_are_resized_as_a_picture() -> None:
    tokens = torch.randn(2, 64, 3)
    for one, small in zip(tokens, resize_tokens(tokens, 4), strict=True):
        torch.testing.assert_close(small, resized(one, 4))


def test_halving_the_grid_averages_four_neighbours() -> None:
    tokens = torch.arange(16.0).reshape(1, 16, 1)
    assert resize_tokens(tokens, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]


def test_image_tokens_of_the_right_grid_stay_as_they_are() -> None:
    tokens = torch.randn(2, 16, 3)
    assert torch.equal(resize_tokens(tokens, 4), tokens)


# The path


def test_it_is_clips_layers_on_the_patches_alone(path: SemanticPath, tiny_config: PixDLMConfig) -> None:
    """CLIP's own layers on its own embeddings, the first row left out, without the last norm."""
    pixels = torch.randn(2, 3, 64, 64)
    clip = path.clip
    hidden = clip.pre_layrnorm(clip.embeddings(pixels)[:, 1:])
    expected = clip.encoder(inputs_embeds=hidden).last_hidden_state
    found = path(pixels, torch.zeros(2, 16, 4, 4), Recorder())
    assert found.shape == (2, tiny_config.clip_grid**2, 32)
    torch.testing.assert_close(found, expected)


def test_the_class_token_takes_no_part(path: SemanticPath) -> None:
    pixels, features = torch.randn(1, 3, 64, 64), torch.zeros(1, 16, 4, 4)
    before = path(pixels, features, Recorder())
    with torch.no_grad():
        path.clip.embeddings.class_embedding.fill_(100.0)
        path.clip.embeddings.position_embedding.weight[0] = -50.0
    assert torch.equal(path(pixels, features, Recorder()), before)


def test_patches_take_the_rows_after_the_first(path: SemanticPath) -> None:
    pixels, features = torch.randn(1, 3, 64, 64), torch.zeros(1, 16, 4, 4)
    before = path(pixels, features, Recorder())
    with torch.no_grad():
        path.clip.embeddings.position_embedding.weight[-1] += 1.0
    recorder = Recorder()
    changed = (path(pixels, features, recorder) - before).abs().amax(dim=(0, 2))
    assert changed.argmax() == 15


def test_each_of_four_equal_stages_is_fused(path: SemanticPath) -> None:
    pixels = torch.randn(1, 3, 64, 64)
    recorder = Recorder()
    path(pixels, torch.zeros(1, 16, 4, 4), recorder)
    assert [stage for stage, _ in recorder.calls] == [0, 1, 2, 3]
    tokens = path.clip.pre_layrnorm(path.clip.embeddings(pixels)[:, 1:])
    for layer, (_, given) in zip(path.clip.encoder.layers, recorder.calls, strict=True):
        tokens = layer(tokens, None)
        torch.testing.assert_close(given, tokens)


def test_what_a_stage_fuses_reaches_the_next(path: SemanticPath, tiny_config: PixDLMConfig) -> None:
    pixels, features = torch.randn(1, 3, 64, 64), torch.randn(1, 16, 4, 4)
    fusion = Fusion(tiny_config, 16)
    neutral = path(pixels, features, fusion)
    torch.testing.assert_close(neutral, path(pixels, features, Recorder()))
    for number in range(3):
        changed = Fusion(tiny_config, 16)
        nn.init.constant_(changed.stitches[number].fast_proj.bias, 1.0)
        assert not torch.allclose(path(pixels, features, changed), neutral, atol=1e-3)


def test_several_layers_make_a_stage(tiny_config: PixDLMConfig) -> None:
    tiny_config.vision_config.num_hidden_layers = 8
    torch.manual_seed(0)
    path = SemanticPath(tiny_config).eval()
    assert isinstance(path.clip, CLIPVisionModel)
    recorder, pixels = Recorder(), torch.randn(1, 3, 64, 64)
    path(pixels, torch.zeros(1, 16, 4, 4), recorder)
    tokens = path.clip.pre_layrnorm(path.clip.embeddings(pixels)[:, 1:])
    for layer in path.clip.encoder.layers[:2]:
        tokens = layer(tokens, None)
    torch.testing.assert_close(recorder.calls[0][1], tokens)
    assert len(recorder.calls) == 4


def test_fresh_positions_are_smooth() -> None:
    table = sine_positions(8, 64).unflatten(0, (8, 8))
    near = (table[0, 0] - table[0, 1]).norm()
    assert near < (table[0, 0] - table[0, 7]).norm() and near < (table[0, 0] - table[7, 0]).norm()
