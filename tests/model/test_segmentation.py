"""model.segmentation: an answer as picture, polygons and COCO annotations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

from model.answering import Answer
from model.config import PixDLMConfig
from model.inputs.images import Geometry, frame_logits
from model.masks import MASK_COLOURS
from model.segmentation import Segmentation, segmentation


@pytest.fixture
def answer(tiny_config: PixDLMConfig) -> Segmentation:
    """Three masks in a picture of 40 x 60 pixels, the second of which is empty."""
    logits = torch.full((3, 32, 32), -2.0)
    logits[0, 4:12, 4:12] = 3
    logits[2, 2:6, 20:26] = 1
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return segmentation(Answer(logits, "two", "ok"), Geometry("letterbox", 40, 60), tiny_config, "Which?", noise)


def test_masks_scores_and_boxes_are_those_of_the_frame(answer: Segmentation, tiny_config: PixDLMConfig) -> None:
    logits = torch.full((1, 32, 32), -2.0)
    logits[0, 4:12, 4:12] = 3
    framed = frame_logits(logits, Geometry("letterbox", 40, 60), tiny_config)[0]
    assert np.array_equal(answer.masks[0], framed > 0)
    assert answer.scores[0] == pytest.approx(float(framed[framed > 0].sigmoid().mean()))
    rows, columns = (framed > 0).numpy().any(axis=1).nonzero()[0], (framed > 0).numpy().any(axis=0).nonzero()[0]
    size = columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
    assert answer.boxes[0].tolist() == [columns[0], rows[0], *size]
    assert answer.scores[1] == 0 and not answer.boxes[1].any()
    assert (answer.question, answer.text, answer.status) == ("Which?", "two", "ok")


def test_the_overlay_paints_each_mask_in_its_colour_and_nothing_else(answer: Segmentation) -> None:
    painted = np.asarray(answer.to_pil())
    inside = answer.masks[[0, 2]].any(axis=0)
    assert np.array_equal(painted[~inside], answer.image[~inside])
    for number in (0, 2):  # outlined
        assert MASK_COLOURS[number] in map(tuple, painted[answer.masks[number]].tolist())
    assert np.array_equal(answer.overlay(Image.fromarray(answer.image)), painted)


def test_an_overlay_without_its_picture_is_refused(answer: Segmentation) -> None:
    alone = Segmentation(answer.masks, answer.scores, answer.boxes, "", 0.0)
    with pytest.raises(ValueError, match="does not know its picture"):
        alone.to_pil()
    with pytest.raises(ValueError, match="pixels"):
        alone.to_pil(np.zeros((40, 61, 3), np.uint8))
    assert alone.to_pil(answer.image).size == (60, 40)


@pytest.mark.parametrize("tolerance", [0.0, None])
def test_coco_annotations_are_the_masks(answer: Segmentation, tolerance: float | None) -> None:
    found = json.loads(json.dumps(answer.to_coco(image_id=7, category_id=2, first_id=5, tolerance=tolerance)))
    assert [(one["id"], one["image_id"], one["category_id"]) for one in found] == [(5, 7, 2), (6, 7, 2)]
    for one, mask in zip(found, answer.masks[[0, 2]], strict=True):
        parts = one["segmentation"]
        rle = parts if tolerance is None else coco.merge(coco.frPyObjects(parts, 40, 60))
        assert np.array_equal(coco.decode(rle), mask) and one["area"] == mask.sum()
    assert found[0]["score"] == pytest.approx(answer.scores[0])


def test_polygons_of_every_mask(answer: Segmentation) -> None:
    polygons = answer.polygons()
    assert [len(one) for one in polygons] == [1, 0, 1]


def test_an_answer_without_a_group_has_no_masks(tiny_config: PixDLMConfig, tmp_path: Path) -> None:
    nothing = segmentation(Answer(torch.zeros(0, 32, 32), "No.", "no_seg"), Geometry("letterbox", 4, 6), tiny_config)
    assert nothing.masks.shape == (0, 4, 6) and nothing.no_target and not nothing.union.any()
    assert nothing.to_coco() == nothing.polygons() == nothing.rles == []
