"""The two-way transformer: the numbers and gradients of `sam2`'s own, from the same weights."""

from __future__ import annotations

import pytest
import torch
from sam2.modeling.sam.transformer import TwoWayTransformer as Published
from torch import Tensor

from model.two_way_transformer import Attention, TwoWayTransformer

WIDTH, HEADS, INNER, SIDE = 32, 4, 48, 6


def pair(depth: int = 2) -> tuple[TwoWayTransformer, Published]:
    torch.manual_seed(0)
    ours, theirs = TwoWayTransformer(depth, WIDTH, HEADS, INNER), Published(depth, WIDTH, HEADS, INNER)
    with torch.no_grad():
        for parameter in theirs.parameters():  # norms too have to differ from their start
            parameter.add_(torch.randn_like(parameter) * 0.2)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def inputs(masks: int = 3, tokens: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Map, its position code, tokens."""
    seeded = torch.Generator().manual_seed(1)
    shapes = [(masks, SIDE * SIDE, WIDTH), (SIDE * SIDE, WIDTH), (masks, tokens, WIDTH)]
    features, positions, points = (torch.randn(shape, generator=seeded) for shape in shapes)
    return features, positions, points


def published(theirs: Published, features: Tensor, positions: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """It, on maps, with a position code for every mask."""

    def as_maps(x: Tensor) -> Tensor:
        return x.transpose(1, 2).unflatten(2, (SIDE, SIDE))

    return theirs(as_maps(features), as_maps(positions.expand_as(features)), tokens)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_it_gives_the_numbers_of_segment_anything(depth: int) -> None:
    ours, theirs = pair(depth)
    for found, expected in zip(ours(*inputs()), published(theirs, *inputs()), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_it_has_the_gradients_of_segment_anything() -> None:
    ours, theirs = pair()
    own, other = ([x.requires_grad_() for x in inputs()] for _ in range(2))
    weights = torch.randn(3, 6, WIDTH), torch.randn(3, SIDE * SIDE, WIDTH)
    for results in (ours(*own), published(theirs, *other)):
        sum((result * weight).sum() for result, weight in zip(results, weights, strict=True)).backward()
    for found, expected in zip(own, other, strict=True):
        torch.testing.assert_close(found.grad, expected.grad, atol=1e-4, rtol=1e-3)
    expected_grads = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected_grads[name].grad, atol=1e-3, rtol=1e-3, msg=name)


def test_a_mask_does_not_depend_on_the_others() -> None:
    ours, _ = pair()
    features, positions, tokens = inputs()
    for row in range(3):
        alone = ours(features[row : row + 1], positions, tokens[row : row + 1])
        for found, expected in zip(alone, ours(features, positions, tokens), strict=True):
            torch.testing.assert_close(found[0], expected[row], atol=1e-5, rtol=1e-4)


def test_no_mask_at_all_is_no_error() -> None:
    ours, _ = pair()
    tokens, features = ours(*inputs(masks=0))
    assert (tuple(tokens.shape), tuple(features.shape)) == ((0, 6, WIDTH), (0, SIDE * SIDE, WIDTH))


def test_it_runs_in_half_precision() -> None:
    ours, _ = pair()
    expected = ours(*inputs())
    found = ours.bfloat16()(*(x.bfloat16() for x in inputs()))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one - other).abs().mean() < 0.02 * other.std()


def test_it_is_as_exact_in_half_precision_as_segment_anything() -> None:
    ours, theirs = pair()
    exact = ours(*inputs())
    halves = [x.bfloat16() for x in inputs()]
    own, other = ours.bfloat16()(*halves), published(theirs.bfloat16(), *halves)
    for one, two, right in zip(own, other, exact, strict=True):
        assert (one - right).abs().mean() < 1.5 * (two - right).abs().mean()


def test_autocast_does_not_round_the_map() -> None:
    attention = Attention(32, 4, downsample=2)
    torch.nn.init.zeros_(attention.out_proj.weight)
    torch.nn.init.zeros_(attention.out_proj.bias)  # so that nothing is written
    features, keys = torch.randn(2, 9, 32), torch.randn(2, 5, 32)
    with torch.autocast("cpu", torch.bfloat16):
        written = attention.write_map(features, torch.randn(9, 32), keys, keys)
    assert torch.equal(written, features)


def test_fresh_cross_attention_finds_its_own_place() -> None:
    """Queries and keys start alike, so that one position code meets itself."""
    torch.manual_seed(0)
    attention = Attention(WIDTH, HEADS, downsample=2)
    assert torch.equal(attention.q_proj.weight, attention.k_proj.weight)
    assert not torch.equal(Attention(WIDTH, HEADS).q_proj.weight, Attention(WIDTH, HEADS).k_proj.weight)
    code = torch.randn(20, WIDTH)
    seg_image_similarity = attention.q_proj(code) @ attention.k_proj(code).T
    assert (seg_image_similarity.argmax(dim=1) == torch.arange(20)).float().mean() > 0.8


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="attention of width 16 cannot be split into 3 heads"):
        Attention(32, 3, downsample=2)
