"""The published model, number for number, on the tiny dimensions of shared/golden (see its README.md)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.language import question_features
from model.lora import PARTS, set_trainable
from model.losses import LossWeights
from model.pixdlm import PixDLMForCausalLM, PixDLMOutput
from model.weights import rename_published
from utils.collate import Batch
from utils.evaluation import confidence
from utils.images import frame_logits
from utils.metrics import MaskScore, mask_counts, summarise

SAMPLES = pytest.mark.parametrize("sample", [0, 1])
LOSSES = ("loss", "ce_loss", "mask_bce_loss", "mask_dice_loss")


@dataclass
class Run:
    """A sample's forward pass and what its modules gave on the way."""

    batch: Batch
    output: PixDLMOutput
    masks: Tensor
    seen: dict[str, Tensor]


def near(found: Tensor, expected: np.ndarray) -> None:
    """To 1e-4 of the expected tensor's own deviation."""
    assert tuple(found.shape) == expected.shape
    assert np.abs(found.numpy() - expected).max() < 1e-4 * expected.std()


@pytest.fixture(scope="module")
def expected(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "expected.json").read_text())


@pytest.fixture(scope="module")
def arrays(golden: Path) -> dict[str, np.ndarray]:
    return dict(np.load(golden / "expected.npz"))


@pytest.fixture(scope="module")
def runs(golden_model: PixDLMForCausalLM, golden_collate: Callable[..., Batch]) -> list[Run]:
    """Every sample by itself."""
    return [run(golden_model, golden_collate(number)) for number in (0, 1)]


@torch.no_grad()
def run(model: PixDLMForCausalLM, batch: Batch) -> Run:
    seen: dict[str, Tensor] = {}
    modules: dict[str, nn.Module] = {f"stitch_{i}": stitch for i, stitch in enumerate(model.fusion.stitches)}
    modules |= {"align": model.fusion.align, "neck": model.mask_decoder.pixel_neck}

    def keep(name: str, module: nn.Module, given: Any, out: Tensor) -> None:
        seen[name] = out

    handles = [module.register_forward_hook(partial(keep, name)) for name, module in modules.items()]
    decode = model.mask_decoder.decode_level

    def decode_and_keep(level: int, *args: Any) -> Tensor:
        seen[f"level_{level}"] = decode(level, *args)
        return seen[f"level_{level}"]

    model.mask_decoder.decode_level = decode_and_keep
    output = model(batch)
    del model.mask_decoder.decode_level
    for handle in handles:
        handle.remove()
    seen["question"] = question_features(model.language_model, batch.question_ids, batch.question_mask)
    return Run(batch, output, frame_logits(output.mask_logits[0], batch.geometries[0], model.config), seen)


# One sample at a time


@SAMPLES
def test_ids_labels_and_the_target_are_the_published_ones(
    runs: list[Run], expected: dict[str, Any], sample: int
) -> None:
    batch, published = runs[sample].batch, expected["samples"][sample]
    assert batch.samples[0].image_path.stem == published["id"]
    assert batch.input_ids[0].tolist() == published["input_ids"]
    assert batch.question_ids[0].tolist() == published["question_ids"]
    assert batch.labels[0].tolist() == published["labels"]
    assert int(batch.masks[0].sum()) == published["gt_area"]


@SAMPLES
def test_pixels_and_question_features(runs: list[Run], arrays: dict[str, np.ndarray], sample: int) -> None:
    one = runs[sample]
    near(one.batch.clip_pixels[0, :, ::16, ::16], arrays[f"s{sample}.pixel_values_16th"])
    near(one.seen["question"], arrays[f"s{sample}.question_features"])


@SAMPLES
def test_the_fused_encoder(runs: list[Run], arrays: dict[str, np.ndarray], sample: int) -> None:
    seen = runs[sample].seen
    for stage in range(3):
        near(seen[f"stitch_{stage}"][:, ::16], arrays[f"s{sample}.stitch_{stage}_16th"])
    published = arrays[f"s{sample}.vision_features"].astype(np.float32)
    np.testing.assert_allclose(seen["align"].numpy(), published, rtol=1e-3, atol=1e-4)


@SAMPLES
def test_the_mask_decoder(runs: list[Run], arrays: dict[str, np.ndarray], sample: int) -> None:
    seen = runs[sample].seen
    near(seen["neck"][..., ::8, ::8], arrays[f"s{sample}.neck_level_0_8th"])
    for level in range(3):
        near(seen[f"level_{level}"][:, None, ::4, ::4], arrays[f"s{sample}.decoder_level_{level}_4th"])


@SAMPLES
def test_masks_and_scores(
    runs: list[Run], arrays: dict[str, np.ndarray], expected: dict[str, Any], sample: int
) -> None:
    one, published = runs[sample], expected["samples"][sample]
    np.testing.assert_allclose(one.masks.numpy(), arrays[f"s{sample}.pred_masks"], rtol=1e-3, atol=1e-3)
    shown, truth = one.masks[0] > 0, one.batch.masks[0][0] > 0
    assert int(shown.sum()) == pytest.approx(published["pred_positive_fraction"] * shown.numel(), abs=10)
    assert int((shown & truth).sum()) == pytest.approx(published["intersection"], abs=10)
    assert int((shown | truth).sum()) == pytest.approx(published["union"], abs=10)
    assert confidence(one.masks[0]) == pytest.approx(published["mask_score"], rel=1e-4)


def test_the_sets_metrics(runs: list[Run], expected: dict[str, Any]) -> None:
    scores = []
    for number, one in enumerate(runs):
        truth = one.batch.masks[0][0].numpy()
        counts = mask_counts((one.masks[0] > 0).numpy(), truth)
        scores.append(MaskScore(number, 0, *counts, int(truth.sum()), truth.size))
    found = summarise(scores)
    assert (found["giou"], found["ciou"]) == pytest.approx((expected["gIoU"], expected["cIoU"]), rel=1e-3)


# One batch of both


@pytest.fixture(scope="module")
def trained(golden_model: PixDLMForCausalLM, golden_collate: Callable[..., Batch]) -> PixDLMOutput:
    """A training step's forward and backward; the model then holds the gradients."""
    set_trainable(golden_model, set(PARTS) - {"clip", "sam2"})
    output = golden_model(golden_collate(0, 1), LossWeights())
    output.loss.backward()
    return output


def test_the_padded_batch_is_the_published_one(golden_collate: Callable[..., Batch], expected: dict[str, Any]) -> None:
    batch, published = golden_collate(0, 1), expected["train_batch"]
    assert batch.input_ids.tolist() == published["input_ids"]
    assert batch.labels.tolist() == published["labels"]
    assert batch.attention_mask.int().tolist() == [[int(x) for x in row] for row in published["attention_mask"]]


def test_every_loss_is_the_published_one(trained: PixDLMOutput, expected: dict[str, Any]) -> None:
    published = expected["train_batch"]["losses"]
    assert {name: getattr(trained, name).item() for name in LOSSES} == pytest.approx(
        {name: published[name] for name in LOSSES}, rel=1e-5
    )
    masks = trained.mask_bce_loss + trained.mask_dice_loss
    assert masks.item() == pytest.approx(published["mask_loss"], rel=1e-5)


def test_every_gradient_is_the_published_one(
    golden_model: PixDLMForCausalLM, trained: PixDLMOutput, expected: dict[str, Any]
) -> None:
    published = {rename_published(name): norm for name, norm in expected["train_batch"]["grad_norms"].items()}
    assert len(published) == 358
    found = {name: p.grad.norm().item() for name, p in golden_model.named_parameters() if p.grad is not None}
    for name, norm in published.items():
        limit = pytest.approx(norm, rel=1e-4) if norm > 1e-6 else pytest.approx(0, abs=1e-6)
        assert found.get(name, 0.0) == limit, name
    assert {name for name, norm in found.items() if norm > 1e-6} <= published.keys()
