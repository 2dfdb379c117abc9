"""Single functions of the published model on the seeded inputs of shared/golden."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model.language import condition_on_text
from model.losses import mask_losses, mean_overlap_loss
from model.semantic_path import resize_positions
from utils.metrics import mask_counts


def near(found: Tensor, expected: Tensor) -> None:
    """To 1e-4 of the expected tensor's own deviation."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-4 * expected.std()


@pytest.fixture(scope="module")
def pieces(golden: Path) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in np.load(golden / "pieces.npz").items()}


def test_mask_losses_of_the_pieces(pieces: dict[str, Tensor]) -> None:
    logits, targets = list(pieces["mask_logits"][:, None]), list(pieces["targets"][:, None])
    bce, dice = mask_losses(logits, targets)
    torch.testing.assert_close(bce, pieces["bce"], rtol=1e-5, atol=0)
    torch.testing.assert_close(dice, pieces["dice"], rtol=1e-5, atol=0)


def test_the_overlap_loss_of_the_pieces(pieces: dict[str, Tensor]) -> None:
    counts = pieces["overlap_counts"].tolist()
    found = mean_overlap_loss(list(pieces["mask_logits"].split(counts)), list(pieces["targets"].split(counts)))
    torch.testing.assert_close(found, pieces["overlap"], rtol=1e-5, atol=0)


def test_text_conditioning_of_the_pieces(pieces: dict[str, Tensor]) -> None:
    near(condition_on_text(pieces["image_features"], pieces["question_features"], None), pieces["conditioned"])


def test_the_position_table_of_the_pieces(pieces: dict[str, Tensor]) -> None:
    found = resize_positions(pieces["position_embedding_224"], 32, "published_shift")
    near(found, pieces["position_embedding_448"])


def test_pixels_counted_in_the_pieces(pieces: dict[str, Tensor]) -> None:
    """Published as [background, foreground]; some pixels are ignored."""
    found = mask_counts(pieces["iou_output"].numpy(), pieces["iou_target"].numpy())
    assert found == (int(pieces["iou_intersection"][1]), int(pieces["iou_union"][1]))
