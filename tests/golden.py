"""Hold this code against numbers that the published code gave: `python tests/golden.py FOLDER`.

FOLDER is laid out as `tests/golden/` is: weights by name and salt, pictures with labels, expected
numbers. One line a quantity, and exit status 1 where one is beyond its tolerance. Weights are computed
from their names, so any salt, any pictures and any number of samples will do; the dimensions are fixed.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor

from model.checkpoints.backbones import load_strict
from model.checkpoints.tensor_names import from_published_name
from model.inputs.batch import Batch
from model.inputs.images import frame_logits
from model.language.conditioning import condition_on_text, question_features
from model.language.tokens import TOKENIZER_FILE, PixTokenizer, Prompt
from model.losses import LossWeights, mask_losses, mean_overlap_loss
from model.masks import confidence
from model.parts import PARTS, set_trainable
from model.pixdlm import PixDLMForCausalLM, PixDLMOutput
from model.presets import golden_config
from model.semantic_path import resize_positions
from utils.datasets.base import Sample
from utils.datasets.loading.collate import Collator
from utils.datasets.registry import load_dataset
from utils.evaluation.metrics import MaskScore, mask_counts, summarise
from utils.runtime.errors import UserError, run_main

# Tolerances, as tests/README.md states them.
EXACT = 0.0
TENSOR = 1e-4  # of the expected tensor's own standard deviation
HALF_RTOL = 1e-3  # of what was kept in float16, beside an absolute part
LOSS = 1e-5
GRADIENT, NO_GRADIENT = 1e-4, 1e-6
PIXELS = 10  # some logits are within 1e-5 of zero
SCORE = 1e-4
METRIC = 1e-3  # ten pixels of an intersection move it

FILES = ("tensors.json", "expected.json", "expected.npz", "pieces.npz")
LOSSES = ("loss", "ce_loss", "mask_bce_loss", "mask_dice_loss")


@dataclass(frozen=True)
class Quantity:
    """Something compared: how far it is off, and how far it may be; `skipped` says why it was not."""

    name: str
    deviation: float = 0.0
    tolerance: float = 0.0
    skipped: str = ""

    @property
    def holds(self) -> bool:
        """Whether it is within its tolerance; a deviation that is no number is not."""
        return bool(self.skipped) or self.deviation <= self.tolerance

    def __str__(self) -> str:
        if self.skipped:
            return f"skip  {self.name:<44} {self.skipped}"
        verdict = "ok  " if self.holds else "FAIL"
        return f"{verdict}  {self.name:<44} {self.deviation:9.2e}  of {self.tolerance:.0e}"


@dataclass
class Golden:
    """A folder of golden values, read."""

    folder: Path
    expected: dict[str, Any]
    arrays: dict[str, np.ndarray]
    pieces: dict[str, Tensor]
    model: PixDLMForCausalLM
    samples: list[Sample]
    tokenizer: PixTokenizer | None  # None: ids are taken from `expected`, and not tested

    def batch(self, *numbers: int) -> Batch:
        """The samples with these numbers."""
        tokenizer = self.tokenizer or RecordedTokenizer(self.samples, self.expected["samples"])
        return Collator(self.model.config, tokenizer)([self.samples[number] for number in numbers])


class RecordedTokenizer:
    """Gives the ids that were recorded for each question, where there is no tokenizer to make them."""

    def __init__(self, samples: list[Sample], recorded: list[dict[str, Any]]) -> None:
        self.by_question = {s.question.strip(): one for s, one in zip(samples, recorded, strict=True)}

    def question(self, question: str) -> list[int]:
        return self.by_question[question.strip()]["question_ids"]

    def prompt(self, question: str, targets: int, answered: bool, words: str) -> Prompt:
        assert answered and targets == 1 and not words
        one = self.by_question[question.strip()]
        return Prompt(one["input_ids"], one["labels"])


# -- reading -----------------------------------------------------------------------------------
def golden_tensor(name: str, shape: list[int], salt: str) -> Tensor:
    """What stands for the published tensor `name`: computed from the name alone."""
    values = np.random.RandomState(zlib.crc32((salt + name).encode()) & 0x7FFFFFFF).standard_normal(int(np.prod(shape)))
    if len(shape) >= 2:
        values = values / np.sqrt(np.prod(shape[1:]))
    else:
        values = 1 + 0.1 * values if name.endswith("weight") else 0.1 * values
    return torch.from_numpy(values.reshape(shape).astype(np.float32))


def golden_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the table under its published name."""
    table = json.loads((folder / "tensors.json").read_text())
    return {name: golden_tensor(name, shape, table["salt"]) for name, shape in table["tensors"].items()}


def golden_model(folder: Path) -> PixDLMForCausalLM:
    """The tiny model with all tensors of the table, strictly, in evaluation mode."""
    model = PixDLMForCausalLM(golden_config())
    state = {from_published_name(name): tensor for name, tensor in golden_weights(folder).items()}
    load_strict(model, state, str(folder / "tensors.json"))
    return model.eval()


def read(folder: Path, tokenizer: Path | None = None) -> Golden:
    """The folder's numbers and its model.

    Args:
        folder: laid out as `tests/golden/` is.
        tokenizer: where `tokenizer.model` lies; by default in the folder. Ids are not tested without one.

    Raises:
        UserError: a file is missing.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder}: no {', '.join(missing)}; expected a folder like {Path(__file__).parent / 'golden'}")
    expected = json.loads((folder / "expected.json").read_text())
    samples = load_dataset(folder / "DRSeg", "test")
    if len(samples) != len(expected["samples"]):
        raise UserError(f"{folder}: {len(samples)} samples in DRSeg/, {len(expected['samples'])} in expected.json")
    file = tokenizer or folder / TOKENIZER_FILE
    return Golden(
        folder=folder,
        expected=expected,
        arrays=dict(np.load(folder / "expected.npz")),
        pieces={name: torch.from_numpy(value) for name, value in np.load(folder / "pieces.npz").items()},
        model=golden_model(folder),
        samples=samples,
        tokenizer=PixTokenizer(file) if file.is_file() else None,
    )


# -- comparing ---------------------------------------------------------------------------------
def unequal(name: str, found: Any, expected: Any) -> Quantity:
    """How many entries differ; a different length counts as all of them."""
    found, expected = np.asarray(found, object).ravel(), np.asarray(expected, object).ravel()
    count = int((found != expected).sum()) if found.shape == expected.shape else max(found.size, expected.size)
    return Quantity(name, count, EXACT)


def tensor(name: str, found: Tensor, expected: np.ndarray) -> Quantity:
    """The largest difference as a share of the expected tensor's standard deviation."""
    if tuple(found.shape) != expected.shape:
        return Quantity(f"{name} {tuple(found.shape)} for {expected.shape}", float("inf"), TENSOR)
    return Quantity(name, float(np.abs(found.detach().numpy() - expected).max() / expected.std()), TENSOR)


def half(name: str, found: Tensor, expected: np.ndarray, atol: float) -> Quantity:
    """The largest difference as a share of atol + rtol * |expected|, for what was kept in float16."""
    expected = expected.astype(np.float32)
    if tuple(found.shape) != expected.shape:
        return Quantity(f"{name} {tuple(found.shape)} for {expected.shape}", float("inf"), 1.0)
    allowed = atol + HALF_RTOL * np.abs(expected)
    return Quantity(name, float((np.abs(found.detach().numpy() - expected) / allowed).max()), 1.0)


def relative(name: str, found: float, expected: float, tolerance: float) -> Quantity:
    return Quantity(name, abs(found - expected) / max(abs(expected), 1e-12), tolerance)


# -- what is compared --------------------------------------------------------------------------
def check(golden: Golden) -> Iterator[Quantity]:
    """Every quantity of the folder, in the order in which data flow."""
    scores = []
    for number in range(len(golden.samples)):
        scores.append((yield from check_sample(golden, number)))
    found = summarise(scores)
    yield relative("gIoU", found["giou"], golden.expected["gIoU"], METRIC)
    yield relative("cIoU", found["ciou"], golden.expected["cIoU"], METRIC)
    yield from check_training(golden)
    yield from check_pieces(golden.pieces)
    if (golden.folder / "reasonseg.json").is_file():
        yield Quantity("reasonseg", skipped="no reader of ReasonSeg's labels here yet")


def check_tokens(golden: Golden, number: int, batch: Batch) -> Iterator[Quantity]:
    """Prompt and ids, where there is a tokenizer to make them."""
    published, name = golden.expected["samples"][number], f"s{number}."
    if golden.tokenizer is None:
        yield Quantity(f"{name}ids and labels", skipped=f"no {TOKENIZER_FILE} in {golden.folder}")
        return
    # of the text as a whole, however it was put together
    ids = golden.tokenizer.encode(published["prompt"])
    yield unequal(f"{name}ids of the recorded prompt", ids, published["input_ids"])
    yield unequal(f"{name}input_ids", batch.input_ids[0].tolist(), published["input_ids"])
    yield unequal(f"{name}labels", batch.labels[0].tolist(), published["labels"])
    yield unequal(f"{name}question_ids", batch.question_ids[0].tolist(), published["question_ids"])


@torch.no_grad()
def check_sample(golden: Golden, number: int) -> Generator[Quantity, None, MaskScore]:
    """One sample by itself: tokens, pixels, every stage of the model, mask and counts; returns its score."""
    batch, published, name = golden.batch(number), golden.expected["samples"][number], f"s{number}."
    arrays = {key[len(name) :]: value for key, value in golden.arrays.items() if key.startswith(name)}
    model, seen = golden.model, {}
    with Watched(model, seen):
        output = model(batch)
    question = question_features(model.language_model, batch.question_ids, batch.question_mask)
    masks = frame_logits(output.mask_logits[0], batch.geometries[0], model.config)

    yield unequal(f"{name}id", [batch.samples[0].record_id], [published["id"]])
    yield from check_tokens(golden, number, batch)
    yield tensor(f"{name}pixel_values", batch.clip_pixels[0, :, ::16, ::16], arrays["pixel_values_16th"])
    yield tensor(f"{name}question_features", question, arrays["question_features"])
    for stage in range(3):
        yield tensor(f"{name}stitch_{stage}", seen[f"stitch_{stage}"][:, ::16], arrays[f"stitch_{stage}_16th"])
    yield half(f"{name}vision_features", seen["align"], arrays["vision_features"], atol=1e-4)
    yield tensor(f"{name}neck_level_0", seen["neck"][..., ::8, ::8], arrays["neck_level_0_8th"])
    for level in range(3):
        found = seen[f"level_{level}"][:, None, ::4, ::4]
        yield tensor(f"{name}decoder_level_{level}", found, arrays[f"decoder_level_{level}_4th"])
    yield half(f"{name}pred_masks", masks, arrays["pred_masks"], atol=1e-3)

    truth, shown = batch.masks[0][0].numpy(), (masks[0] > 0).numpy()
    intersection, union = mask_counts(shown, truth)
    positive = published["pred_positive_fraction"] * shown.size
    yield unequal(f"{name}gt_area", [int(truth.sum())], [published["gt_area"]])
    yield Quantity(f"{name}predicted pixels", abs(int(shown.sum()) - positive), PIXELS)
    yield Quantity(f"{name}intersection", abs(intersection - published["intersection"]), PIXELS)
    yield Quantity(f"{name}union", abs(union - published["union"]), PIXELS)
    yield relative(f"{name}mask_score", confidence(masks[0]), published["mask_score"], SCORE)
    return MaskScore(number, 0, intersection, union, int(truth.sum()), truth.size)


@dataclass
class Watched:
    """While it is open, what the stages of a model give is kept in `seen`."""

    model: PixDLMForCausalLM
    seen: dict[str, Tensor]
    handles: list[Any] = field(default_factory=list)

    def __enter__(self) -> None:
        modules = {f"stitch_{i}": stitch for i, stitch in enumerate(self.model.fusion.stitches)}
        modules |= {"align": self.model.fusion.align, "neck": self.model.mask_decoder.pixel_neck}
        for name, module in modules.items():
            keep = lambda _module, _given, out, name=name: self.seen.__setitem__(name, out)  # noqa: E731
            self.handles.append(module.register_forward_hook(keep))
        decoder = self.model.mask_decoder
        decode = decoder.decode_level

        def decode_and_keep(level: int, *args: Any) -> Tensor:
            self.seen[f"level_{level}"] = decode(level, *args)
            return self.seen[f"level_{level}"]

        decoder.decode_level = decode_and_keep

    def __exit__(self, *_: object) -> None:
        del self.model.mask_decoder.decode_level
        for handle in self.handles:
            handle.remove()


def check_training(golden: Golden) -> Iterator[Quantity]:
    """One training batch of all samples: padding, losses, and the norm of every gradient."""
    published, model = golden.expected["train_batch"], golden.model
    batch = golden.batch(*range(len(golden.samples)))
    yield unequal("batch.input_ids", batch.input_ids.tolist(), published["input_ids"])
    yield unequal("batch.labels", batch.labels.tolist(), published["labels"])
    attention = [[bool(x) for x in row] for row in published["attention_mask"]]
    yield unequal("batch.attention_mask", batch.attention_mask.tolist(), attention)
    set_trainable(model, set(PARTS) - {"clip", "sam2"})
    model.zero_grad()
    output: PixDLMOutput = model(batch, LossWeights())
    output.loss.backward()
    losses = {name: getattr(output, name).item() for name in LOSSES}
    losses["mask_loss"] = losses["mask_bce_loss"] + losses["mask_dice_loss"]
    for name, value in published["losses"].items():
        yield relative(f"batch.{name}", losses[name], value, LOSS)
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}
    for published_name, norm in published["grad_norms"].items():
        found = norms.pop(from_published_name(published_name), 0.0)
        if norm > NO_GRADIENT:
            yield relative(f"grad {published_name}", found, norm, GRADIENT)
        else:
            yield Quantity(f"grad {published_name}", found, NO_GRADIENT)
    others = float(np.max([*norms.values(), 0.0]))  # NaN where one is
    yield Quantity("largest gradient of any other parameter", others, NO_GRADIENT)


def check_pieces(pieces: dict[str, Tensor]) -> Iterator[Quantity]:
    """Single functions on seeded inputs."""
    bce, dice = mask_losses(list(pieces["mask_logits"][:, None]), list(pieces["targets"][:, None]))
    yield relative("pieces.bce", bce.item(), pieces["bce"].item(), LOSS)
    yield relative("pieces.dice", dice.item(), pieces["dice"].item(), LOSS)
    counts = pieces["overlap_counts"].tolist()
    overlap = mean_overlap_loss(list(pieces["mask_logits"].split(counts)), list(pieces["targets"].split(counts)))
    yield relative("pieces.overlap", overlap.item(), pieces["overlap"].item(), LOSS)
    conditioned = condition_on_text(pieces["image_features"], pieces["question_features"], None)
    yield tensor("pieces.conditioned", conditioned, pieces["conditioned"].numpy())
    table = resize_positions(pieces["position_embedding_224"], 32, "published_shift")
    yield tensor("pieces.position_embedding_448", table, pieces["position_embedding_448"].numpy())
    output, target = pieces["iou_output"].numpy(), pieces["iou_target"].numpy()
    for side, value in (("background", 0), ("foreground", 1)):
        found = mask_counts(output == value, np.where(target == 255, 255, target == value))
        recorded = [int(pieces[f"iou_{count}"][value]) for count in ("intersection", "union")]
        yield unequal(f"pieces.iou of the {side}", found, recorded)


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        raise UserError("usage: python tests/golden.py FOLDER, e.g. ../shared/golden or tests/golden")
    quantities = []
    try:
        for quantity in check(read(Path(sys.argv[1]))):
            print(quantity)
            quantities.append(quantity)
    except KeyError as error:
        raise UserError(f"{sys.argv[1]}: its numbers lack {error}, or have one that is not known here") from error
    failed, skipped = sum(not one.holds for one in quantities), sum(bool(one.skipped) for one in quantities)
    print(f"{len(quantities)} quantities: {failed} beyond tolerance, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    run_main(main)
