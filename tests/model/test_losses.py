"""Losses against numbers worked out by hand, and how they come together over a batch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from model.losses import (
    LossWeights,
    cell_shares,
    grounding_loss,
    mask_bce,
    mask_dice,
    mask_losses,
    mean_overlap_loss,
    overlap_loss,
)
from model.masks import IGNORE_LABEL

LOGITS = torch.tensor([[0.0, math.log(3)], [-math.log(3), 0.0]])  # probabilities 1/2, 3/4, 1/4, 1/2
TARGET = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
BCE = (math.log(2) + math.log(4 / 3) + math.log(4 / 3) + math.log(2)) / 4
DICE = 1 - (2 * 1.25 / 1000 + 1e-6) / (2 / 1000 + 2 / 1000 + 1e-6)


def masks(*counts: int, height: int = 3, width: int = 4) -> tuple[list[Tensor], list[Tensor]]:
    seeded = torch.Generator().manual_seed(0)
    logits = [torch.randn(count, height + i, width, generator=seeded) for i, count in enumerate(counts)]
    return logits, [(torch.rand(one.shape, generator=seeded) > 0.5).to(torch.uint8) for one in logits]


def test_published_weights() -> None:
    assert LossWeights() == LossWeights(ce=1.0, bce=2.0, dice=0.5, overlap=0.0, grounding=0.0)


def test_bce_is_the_mean_over_pixels() -> None:
    assert mask_bce(LOGITS, TARGET).item() == pytest.approx(BCE)


def test_dice_by_hand() -> None:
    assert mask_dice(LOGITS, TARGET).item() == pytest.approx(DICE)


def test_dice_of_a_perfect_mask_and_of_two_empty_ones_is_zero() -> None:
    assert mask_dice((TARGET - 0.5) * 1000, TARGET).item() == pytest.approx(0, abs=1e-6)
    assert mask_dice(torch.full((2, 2), -1000.0), torch.zeros(2, 2)).item() == pytest.approx(0, abs=1e-6)


def test_each_mask_counts_the_same_whatever_its_size_and_question() -> None:
    logits, targets = masks(2, 0, 1)
    bce, dice = mask_losses(logits, targets)
    pairs = [(logits[0][0], targets[0][0]), (logits[0][1], targets[0][1]), (logits[2][0], targets[2][0])]
    assert bce.item() == pytest.approx(sum(mask_bce(a, b.float()).item() for a, b in pairs) / 3)
    assert dice.item() == pytest.approx(sum(mask_dice(a, b.float()).item() for a, b in pairs) / 3)


def test_half_precision_logits_are_scored_in_float32() -> None:
    logits, targets = masks(2)
    for loss in (*mask_losses([logits[0].bfloat16()], targets), mean_overlap_loss([logits[0].bfloat16()], targets)):
        assert loss.dtype == torch.float32


@pytest.mark.parametrize("shape", [(1, 3, 4), (3, 3, 4), (2, 4, 3)])
def test_masks_that_do_not_match_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"predicted masks are \(2, 3, 4\), targets \("):
        mask_losses(masks(2)[0], [torch.zeros(shape, dtype=torch.uint8)])


def test_a_batch_without_a_target_has_losses_of_zero_that_reach_the_masks() -> None:
    """On one rank of several it may be so; raising there would leave the others waiting."""
    logits = torch.zeros(0, 4, 5, requires_grad=True)
    bce, dice = mask_losses([logits], [torch.zeros(0, 4, 5, dtype=torch.uint8)])
    overlap = mean_overlap_loss([logits], [torch.zeros(0, 4, 5, dtype=torch.uint8)])
    similar = torch.zeros(0, 4, requires_grad=True)
    grounding = grounding_loss(similar, [torch.zeros(0, 4, 5, dtype=torch.uint8)], 2)
    assert [one.item() for one in (bce, dice, overlap, grounding)] == [0, 0, 0, 0]
    for loss in (bce + dice, overlap):
        logits.grad = None
        loss.backward()
        assert logits.grad.shape == logits.shape
    grounding.backward()
    assert similar.grad.shape == similar.shape


def test_questions_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError):
        mask_losses(masks(1, 1)[0], masks(1)[1])
    with pytest.raises(ValueError):
        mean_overlap_loss(masks(1, 1)[0], masks(1)[1])


# The overlap loss


def test_overlap_counts_only_pixels_that_two_masks_claim() -> None:
    """Three masks of three pixels: one claimed by two, one by three, one by one."""
    logits = torch.tensor([[[1.0, 2.0, 3.0]], [[1.0, 2.0, -3.0]], [[-1.0, 2.0, -3.0]]])
    targets = torch.tensor([[[1, 1, 1]], [[0, 1, 1]], [[0, 0, 1]]], dtype=torch.uint8)

    def softplus(x: float) -> float:
        return math.log1p(math.exp(x))

    first = softplus(-1) + softplus(1) + softplus(-1)
    second = softplus(-2) + softplus(-2) + softplus(2)
    assert overlap_loss(logits, targets).item() == pytest.approx((first + second) / 3)


def test_masks_that_contest_nothing_have_no_overlap_loss() -> None:
    logits = torch.tensor([[[5.0, -1.0]], [[-1.0, 0.0]], [[-2.0, 3.0]]])
    assert overlap_loss(logits, torch.ones(3, 1, 2)).item() == 0
    assert overlap_loss(torch.ones(1, 3, 4), torch.zeros(1, 3, 4)).item() == 0


def test_overlap_is_summed_over_questions_and_divided_by_masks() -> None:
    logits, targets = masks(3, 0, 2)
    expected = (overlap_loss(logits[0], targets[0]) + overlap_loss(logits[2], targets[2])) / 5
    torch.testing.assert_close(mean_overlap_loss(logits, targets), expected)


def test_questions_do_not_contest_each_others_pixels() -> None:
    logits, targets = [torch.ones(1, 2, 2)] * 2, [torch.zeros(1, 2, 2)] * 2
    assert mean_overlap_loss(logits, targets).item() == 0
    assert mean_overlap_loss([torch.cat(logits)], [torch.cat(targets)]).item() > 0


def test_overlap_has_a_gradient_at_contested_pixels_alone() -> None:
    logits = torch.tensor([[[1.0, 1.0]], [[1.0, -1.0]]], requires_grad=True)
    overlap_loss(logits, torch.zeros(2, 1, 2)).backward()
    assert logits.grad[..., 0].abs().min() > 0
    assert not logits.grad[..., 1].any()


def test_foreground_is_shared_out_over_the_cells_of_the_square() -> None:
    target = torch.zeros(4, 8, dtype=torch.uint8)  # wide: the square's lower half lies beyond the frame
    target[0, 0] = target[3, 6] = target[3, 7] = target[2, 7] = 1
    assert cell_shares(target, 2).tolist() == [0.25, 0.75, 0, 0]
    assert cell_shares(target.T.contiguous(), 2).tolist() == [0.25, 0, 0.75, 0]
    assert cell_shares(target, 4)[[0, 7]].tolist() == [0.25, 0.75]
    assert cell_shares(torch.zeros(4, 8, dtype=torch.uint8), 2).tolist() == [0, 0, 0, 0]


def test_grounding_by_hand() -> None:
    first, second = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
    first[0, 0, 1] = 1
    second[0, 1] = 1  # half in cell 2, half in cell 3
    logits = torch.tensor([[0.0, 3.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]).log_softmax(dim=1)
    hit = math.log(3 + math.e**3) - 3
    assert grounding_loss(logits, [first, second], 2).item() == pytest.approx((hit + math.log(4)) / 2)
    both = torch.cat([first, second])  # two targets of one question
    assert grounding_loss(logits, [both], 2).item() == pytest.approx((hit + math.log(4)) / 2)
    assert grounding_loss(logits.bfloat16(), [both], 2).dtype == torch.float32


# Pixels that are not counted


@pytest.fixture
def cut() -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """Logits and targets whose two last columns are ignored, and both without these columns."""
    logits, targets = masks(3, 2, width=6)
    ignoring = [target.clone() for target in targets]
    for target in ignoring:
        target[..., 4:] = IGNORE_LABEL
    return logits, ignoring, [one[..., :4] for one in logits], [one[..., :4] for one in targets]


def test_ignored_pixels_leave_the_losses_of_the_others(cut: tuple[list[Tensor], ...]) -> None:
    logits, ignoring, cut_logits, cut_targets = cut
    found, expected = mask_losses(logits, ignoring, ignores=True), mask_losses(cut_logits, cut_targets)
    torch.testing.assert_close(found, expected)
    assert all(abs(one - other) > 1e-3 for one, other in zip(found, mask_losses(logits, ignoring), strict=True))


def test_bce_is_the_mean_over_counted_pixels_by_hand() -> None:
    counted = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    expected = (math.log(2) + 2 * math.log(4 / 3)) / 3
    assert mask_bce(LOGITS, TARGET, counted).item() == pytest.approx(expected)
    assert mask_bce(LOGITS, TARGET, torch.zeros(2, 2)).item() == 0  # nothing is counted


def test_dice_takes_prediction_and_target_as_absent_by_hand() -> None:
    counted = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    expected = 1 - (2 * 0.5 / 1000 + 1e-6) / (1.25 / 1000 + 1 / 1000 + 1e-6)
    assert mask_dice(LOGITS, TARGET * counted, counted).item() == pytest.approx(expected)


def test_the_overlap_loss_leaves_ignored_pixels_out(cut: tuple[list[Tensor], ...]) -> None:
    logits, ignoring, cut_logits, cut_targets = cut
    found = mean_overlap_loss(logits, ignoring, ignores=True)
    torch.testing.assert_close(found, mean_overlap_loss(cut_logits, cut_targets))


def test_ignored_pixels_have_no_gradient(cut: tuple[list[Tensor], ...]) -> None:
    logits, ignoring = [one.requires_grad_() for one in cut[0]], cut[1]
    sum([*mask_losses(logits, ignoring, True), mean_overlap_loss(logits, ignoring, True)]).backward()
    for one in logits:
        assert one.grad[..., :4].all() and not one.grad[..., 4:].any()


def test_grounding_does_not_look_at_ignored_pixels() -> None:
    target = torch.zeros(4, 4, dtype=torch.uint8)
    target[0, 0] = target[3, 3] = 1
    ignoring = target.clone()
    ignoring[2:, 2:] = IGNORE_LABEL
    assert cell_shares(target, 2).tolist() == [0.5, 0, 0, 0.5]
    assert cell_shares(ignoring, 2).tolist() == [1, 0, 0, 0]
    logits = torch.tensor([[0.0, 3.0, 0.0, 0.0]])
    expected = math.log(3 + math.e**3)
    assert grounding_loss(logits, [ignoring[None]], 2).item() == pytest.approx(expected)


def test_where_nothing_is_ignored_it_makes_no_difference() -> None:
    logits, targets = masks(3, 2)
    torch.testing.assert_close(mask_losses(logits, targets, True), mask_losses(logits, targets, False))
    torch.testing.assert_close(mean_overlap_loss(logits, targets, True), mean_overlap_loss(logits, targets, False))
