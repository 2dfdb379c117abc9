"""Samples: one question about one photograph, with the masks that answer it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco

from model.language.answers import SEG, answer_words
from model.masks import IGNORE_LABEL, Polygon, polygons_rle
from utils.runtime.errors import UserError

Target = tuple[Polygon, ...] | dict[str, Any]  # polygons whose union is meant, or a COCO RLE
Flip = tuple[bool, bool]  # left to right, top to bottom


class BadRecord(UserError):
    """A record that cannot be used; the message names the file and the record."""


@dataclass(frozen=True)
class Sample:
    """One question about one photograph.

    Args:
        image_path: the photograph.
        question: in plain words.
        answer: the annotated answer, reasoning included, or None.
        targets: the masks that answer the question; every target gets a [SEG] group of its own, in this order.
        height: of the frame that the labels were drawn on, in pixels.
        width: likewise.
        dataset: name in the registry.
        record_id: of the record in its file.
        index: position among the samples of the split, unique.
        key: names it in predictions files, unique in the split whatever is left out: the record's id, followed by
            `#0`, `#1`, … where several questions stand under that id.
        groups: what results are broken down by: the value of each group that is known, such as
            {"reasoning_type": "spatial", "altitude": 30}.
        ignore: a region whose pixels count neither for nor against a mask, or None.
        flip: how picture and targets are flipped when they are read (`utils.datasets.loading.flips`).
        source: file, position and id of its record, for errors; "" where there is no file.
        picture_size: height and width of the picture in pixels, where it is another than that of the labels' frame.
        upright: the picture's orientation tag is applied, as viewers do; False where labels were drawn on the
            pixels as they are stored.
        wordless: the prompt goes without the answer's words (`utils.datasets.loading.word_dropout`).
        phrases: of a description whose parts are marked, one for each target, in their order.
    """

    image_path: Path
    question: str
    answer: str | None
    targets: tuple[Target, ...]
    height: int
    width: int
    dataset: str
    record_id: str
    index: int
    groups: Mapping[str, Any] = field(default_factory=dict)
    ignore: Target | None = None
    flip: Flip = (False, False)
    source: str = ""
    key: str = ""
    picture_size: tuple[int, int] | None = None
    upright: bool = True
    wordless: bool = False
    phrases: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture in pixels."""
        return self.picture_size or (self.height, self.width)

    @property
    def name(self) -> str:
        """What errors call its record."""
        return self.source or f"{self.dataset} record {self.record_id!r}"


@dataclass(frozen=True)
class ScoringRules:
    """How predictions for a data set are scored.

    Args:
        metrics: names of those in `utils.evaluation.metrics.METRICS`, in the order of tables.
        matching: how predicted masks are matched to several targets: "order" or "hungarian".
        unit: what is scored: "target", or "question" where several targets count as their union.
        canvas: where masks are compared (`utils.evaluation.canvas`): "picture", its own size; "square480", both
            stretched to 480x480; "letterbox1024", both fitted into 1024x1024; "box", by the boxes around them;
            "box_grid", by those on a grid of 100 with inclusive sides.
        empty_iou: IoU where target and prediction are both empty.
        precision_of_all: Pr counts questions without a target too, by their IoU; else targets alone.
        covered_once: a target is what exactly one of its polygons covers, not their union.
        note: what a reader of the numbers must know about the rules, or "".
    """

    metrics: tuple[str, ...] = ("giou", "ciou")
    matching: str = "order"
    unit: str = "target"
    canvas: str = "picture"
    empty_iou: float = 1.0
    covered_once: bool = False
    precision_of_all: bool = False
    note: str = ""


SEGMENTATION, GROUNDED = "segmentation", "grounded"  # what a data set asks for
GENERAL_METRICS = ("giou", "ciou", "n_acc", "t_acc")  # the last two are told where questions without targets occur
CLEAN, OFFICIAL = "clean", "official"  # rules that most data sets have; where they have one pair, both are the same


@dataclass(frozen=True)
class DatasetSpec:
    """A data set: how its files are laid out, how it is read, and how it is scored.

    Args:
        name: what `--dataset` calls it.
        splits: as published.
        layout: its files, for the error about a missing folder.
        source: where to get it, in one line.
        loader: `loader(root, split, reading, skipped)` returns the samples of a split, read as a
            `utils.datasets.reading.Reading` says; `skipped` takes what is wrong with each record that is left out.
        rules: how it is scored, by what `--metric` calls that; "clean", the default, must be there.
        group_titles: title of each of `Sample.groups` in tables, in their order.
        no_target: whether questions without targets occur.
        task: "segmentation", or "grounded" where the answer is a description whose phrases are marked
            (`Sample.phrases`), which `utils.evaluation.grounded` scores besides.
    """

    name: str
    splits: tuple[str, ...]
    layout: str
    source: str
    loader: Callable[..., list[Sample]]
    rules: Mapping[str, ScoringRules] = field(default_factory=lambda: {CLEAN: ScoringRules()})
    group_titles: Mapping[str, str] = field(default_factory=dict)
    no_target: bool = False
    task: str = SEGMENTATION

    @property
    def metrics(self) -> tuple[str, ...]:
        """Of the clean rules, as are the next two."""
        return self.rules[CLEAN].metrics

    @property
    def matching(self) -> str:
        return self.rules[CLEAN].matching

    @property
    def unit(self) -> str:
        return self.rules[CLEAN].unit

    def scoring(self, metric: str = CLEAN, unit: str | None = None) -> ScoringRules:
        """The rules that `--metric` names; "official" are the clean ones where the two do not differ.

        Args:
            metric: their name.
            unit: what predictions are scored by where that is another than the data set's, such as "question" for a
                model that gives one mask a question.

        Raises:
            UserError: there are none of this name; the known ones are listed.
        """
        known = {OFFICIAL: self.rules[CLEAN], **self.rules}
        if metric not in known:
            raise UserError(f"--metric is {metric!r}; {self.name} has {', '.join(sorted(known))}")
        return known[metric] if unit in (None, self.unit) else replace(known[metric], unit=unit)


def target_count(sample: Sample, single: bool) -> int:
    """How many masks answer a sample; the union as one where the model answers with a `single` one."""
    return min(len(sample.targets), 1) if single else len(sample.targets)


def forced_count(sample: Sample, single: bool) -> int:
    """How many [SEG] groups are put into a teacher-forced answer; one where there is no target, or else their number
    would give away that nothing is to be marked."""
    return max(1, target_count(sample, single))


def sample_words(sample: Sample, answer_format: str) -> str:
    """What stands before the [SEG] groups of a sample's answer.

    Raises:
        BadRecord: its annotated answer does not have that.
    """
    try:
        return answer_words(sample.answer, SEG if sample.wordless else answer_format)
    except ValueError as error:
        raise BadRecord(f"{sample.name}, question {sample.question!r}: {error}") from error


def target_masks(sample: Sample, height: int, width: int, merge: bool = False) -> np.ndarray:
    """The targets as masks, drawn by pycocotools.

    Args:
        sample: its polygons are scaled when the picture has another size than the labels' frame.
        height: of the picture in pixels.
        width: likewise.
        merge: one mask, the union of all targets.

    Returns:
        uint8[K, height, width] of 0, 1 and, in the sample's ignore region, IGNORE_LABEL; K = 1 with `merge`,
        0 where there are no targets

    Raises:
        BadRecord: an RLE was made for another frame than the sample names.
    """
    masks = [draw_target(sample, target, height, width) for target in sample.targets]
    if not masks:
        return np.zeros((0, height, width), np.uint8)
    stacked = np.stack(masks)
    drawn = stacked.max(axis=0, keepdims=True) if merge else stacked
    if sample.ignore is not None:
        drawn[:, ignored_pixels(sample, height, width)] = IGNORE_LABEL
    return drawn


def ignored_pixels(sample: Sample, height: int, width: int) -> np.ndarray:
    """Where a sample's ignore region lies: bool[height, width]."""
    return draw_target(sample, sample.ignore, height, width) == 1


def draw_target(sample: Sample, target: Target, height: int, width: int) -> np.ndarray:
    """One target as uint8[height, width] of 0 and 1.

    Raises:
        BadRecord: an RLE was made for another frame than the sample names.
    """
    if not isinstance(target, dict):
        return coco.decode(polygons_rle(target, (sample.height, sample.width), (height, width)))
    if tuple(target["size"]) != (sample.height, sample.width):
        made, named = target["size"], (sample.height, sample.width)
        raise BadRecord(
            f"{sample.name}: an RLE of {made[1]}x{made[0]} pixels in labels of a frame of {named[1]}x{named[0]}"
        )
    # Nearest keeps 0 and 1, and leaves a mask of the right size as it is.
    return cv2.resize(coco.decode(target), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def image_groups(samples: list[Sample]) -> list[list[int]]:
    """Indices of the samples that share a picture, in order of first appearance."""
    groups: dict[Path, list[int]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault(sample.image_path, []).append(i)
    return list(groups.values())
